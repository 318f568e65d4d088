use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use cli_kit::{errln, outln};
use figures::{Canvas, overlay};
use refcoco::{Dataset, Ref};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Data set, such as refcoco
    #[arg(long)]
    dataset: String,
    /// Folder of the data sets
    #[arg(long, default_value = command_kit::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// The ref to draw
    #[arg(long = "ref", conflicts_with = "image", required_unless_present = "image")]
    ref_id: Option<i64>,
    /// The image whose refs to draw
    #[arg(long)]
    image: Option<i64>,
    /// PNG file to write
    #[arg(long, default_value = "show.png")]
    out: PathBuf,
}

const COLOUR: [u8; 3] = [40, 190, 80];
const LINE: usize = 22;
const GAP: usize = 8;

pub(crate) fn show(args: &ShowArgs) -> Result<()> {
    let dataset = command_kit::open(&args.dataset, &args.data_root)?;
    let wanted = |reference: &&Ref| match (args.ref_id, args.image) {
        (Some(ref_id), _) => reference.ref_id == ref_id,
        (None, image) => Some(reference.image_id) == image,
    };
    let refs: Vec<&Ref> = dataset.refs.iter().filter(wanted).collect();
    let what = args
        .ref_id
        .map_or_else(|| args.image.map(|id| format!("image {id}")), |id| Some(format!("ref {id}")));
    ensure!(!refs.is_empty(), "{}: there is no ref for {}", args.dataset, what.unwrap_or_default());
    let image = dataset.image(refs[0].image_id)?;
    let (width, height) = (image.width, image.height);
    let picture = Canvas::from_rgb(width, height, image.data);
    let captions = refs.iter().map(|reference| 1 + reference.expressions.len()).max().unwrap_or(1);
    let cell = height + captions * LINE + GAP;
    let mut sheet = Canvas::new(width.max(320) + 2 * GAP, refs.len() * cell + GAP, [250; 3]);
    let text_width = width.max(320);
    for (index, reference) in refs.iter().enumerate() {
        let y = GAP + index * cell;
        let mask = dataset.target(reference)?;
        sheet.paste(&overlay(picture.clone(), &mask.data, COLOUR), GAP, y);
        let title =
            format!("ref {}, {}, {}", reference.ref_id, targets(&dataset, reference), reference.split);
        sheet.text(&title, GAP, y + height + 4, 15.0, text_width, [120; 3]);
        for (line, expression) in reference.expressions.iter().enumerate() {
            let caption = format!("\u{201c}{}\u{201d}", expression.sent);
            sheet.text(&caption, GAP, y + height + 4 + (line + 1) * LINE, 17.0, text_width, [20; 3]);
        }
    }
    sheet.save(&args.out)?;
    if let Some(note) = figures::missing_letters_note() {
        errln!("{}: {note}", args.out.display());
    }
    outln!("{}", args.out.display());
    Ok(())
}

/// Describes the targets of a ref.
fn targets(dataset: &Dataset, reference: &Ref) -> String {
    let described = reference.ann_ids.iter().map(|ann_id| {
        let annotation = dataset.instances.annotations.get(ann_id);
        let category = annotation.and_then(|one| dataset.instances.categories.get(&one.category_id));
        format!("annotation {ann_id} ({})", category.map_or("unknown category", String::as_str))
    });
    let described: Vec<String> = described.collect();
    if described.is_empty() { "no target".to_owned() } else { described.join(", ") }
}
