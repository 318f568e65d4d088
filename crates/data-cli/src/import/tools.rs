//! Sources made by annotation tools: labelme, COCO instances, YOLO segmentation labels, folders of mask pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::labelled::{Found, Labelled, LabelledMask, files_below, is_picture, name_below, split_of_path};

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(file_kind::without_mark(&text)).with_context(|| path.display().to_string())
}

/// Reads a folder of labelme's JSON files. A shape's label is its category, its description an expression. Shapes of one label and
/// one `group_id` are one object.
pub(super) fn labelme(folder: &Path) -> Result<Found> {
    let mut found = Found::default();
    for path in files_below(folder)?.iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let document = read_json(path)?;
        let Some(shapes) = document["shapes"].as_array() else { continue };
        let named = document["imagePath"].as_str().unwrap_or_default().replace('\\', "/");
        let beside = path.parent().unwrap_or(folder);
        let base = named.rsplit('/').next().unwrap_or_default();
        let places = [beside.join(base), beside.join(&named)];
        let picture = places.into_iter().find(|place| place.is_file());
        let picture = picture
            .with_context(|| format!("{}: its picture `{named}` does not lie beside it", path.display()))?;
        let mut groups: BTreeMap<(String, String), usize> = BTreeMap::new();
        for shape in shapes {
            let Some(polygon) = labelme_polygon(shape) else {
                found.leave_out("shapes that are no area");
                continue;
            };
            let label = shape["label"].as_str().unwrap_or("object").to_owned();
            if !shape["group_id"].is_null() {
                let key = (label.clone(), shape["group_id"].to_string());
                if let Some(&place) = groups.get(&key) {
                    if let LabelledMask::Coco(Value::Array(polygons)) = &mut found.objects[place].mask {
                        polygons.push(polygon);
                    }
                    continue;
                }
                groups.insert(key, found.objects.len());
            }
            let description = shape["description"].as_str().unwrap_or_default().trim().to_owned();
            let name = name_below(&picture, folder);
            found.objects.push(Labelled {
                split: split_of_path(&name),
                name,
                picture: picture.clone(),
                mask: LabelledMask::Coco(json!([polygon])),
                category: Some(label),
                expressions: Some(description).filter(|text| !text.is_empty()).into_iter().collect(),
                number: None,
                crowd: false,
            });
        }
    }
    Ok(found)
}

/// Corners of a shape, `[x, y, x, y, ...]`; `None` for lines and points.
fn labelme_polygon(shape: &Value) -> Option<Value> {
    let points: Vec<[f64; 2]> = shape["points"]
        .as_array()?
        .iter()
        .map(|point| Some([point.get(0)?.as_f64()?, point.get(1)?.as_f64()?]))
        .collect::<Option<_>>()?;
    let corners: Vec<[f64; 2]> = match (shape["shape_type"].as_str().unwrap_or("polygon"), &points[..]) {
        ("polygon", points) if points.len() > 2 => points.to_vec(),
        ("rectangle", &[[a, b], [c, d]]) => vec![[a, b], [c, b], [c, d], [a, d]],
        ("rectangle", points) if points.len() == 4 => points.to_vec(),
        // The centre, and a point of the circle.
        ("circle", &[[x, y], [a, b]]) => {
            let radius = (a - x).hypot(b - y);
            let corner = |step: u32| {
                let angle = f64::from(step) * std::f64::consts::TAU / 64.0;
                [x + radius * angle.cos(), y + radius * angle.sin()]
            };
            (0..64).map(corner).collect()
        }
        _ => return None,
    };
    Some(json!(corners.concat()))
}

/// Reads COCO's `instances_*.json`.
///
/// - images: folder of the pictures; by default that of the file
pub(super) fn coco(path: &Path, images: Option<&PathBuf>) -> Result<Found> {
    let document = read_json(path)?;
    let list = |key: &str| {
        document[key].as_array().with_context(|| format!("{}: it has no list `{key}`", path.display()))
    };
    let folder = images.map_or_else(|| path.parent().unwrap_or(Path::new("")).to_path_buf(), Clone::clone);
    let mut names = BTreeMap::new();
    for image in list("images")? {
        if let (Some(id), Some(name)) = (image["id"].as_i64(), image["file_name"].as_str()) {
            names.insert(id, name.replace('\\', "/"));
        }
    }
    let categories: BTreeMap<i64, &str> = list("categories")?
        .iter()
        .filter_map(|category| Some((category["id"].as_i64()?, category["name"].as_str()?)))
        .collect();
    let split = split_of_path(&path.file_name().unwrap_or_default().to_string_lossy());
    let mut found = Found::default();
    for annotation in list("annotations")? {
        let at = || format!("{}: annotation {}", path.display(), annotation["id"]);
        let segmentation = &annotation["segmentation"];
        if segmentation.is_null() || segmentation.as_array().is_some_and(Vec::is_empty) {
            found.leave_out("annotations without a segmentation");
            continue;
        }
        let image_id = annotation["image_id"].as_i64().with_context(at).context("`image_id` is missing")?;
        let name = names.get(&image_id).with_context(at).context("its image has no record")?;
        let category = annotation["category_id"].as_i64().and_then(|id| categories.get(&id));
        found.objects.push(Labelled {
            picture: folder.join(name),
            name: name.clone(),
            mask: LabelledMask::Coco(segmentation.clone()),
            category: category.map(|name| (*name).to_owned()),
            expressions: Vec::new(),
            number: annotation["id"].as_i64(),
            split: split.clone(),
            crowd: annotation["iscrowd"].as_i64() == Some(1) || annotation["iscrowd"] == true,
        });
    }
    for object in &found.objects {
        ensure!(
            object.picture.is_file(),
            "{}: there is no such picture; say where they are with --images DIR",
            object.picture.display()
        );
    }
    Ok(found)
}

/// Reads YOLO's segmentation labels: `labels/[SPLIT/]NAME.txt` with `CLASS x y x y ...` in shares of the picture's size, beside
/// `images/[SPLIT/]NAME.jpg`.
pub(super) fn yolo(folder: &Path) -> Result<Found> {
    let (labels, images) = (folder.join("labels"), folder.join("images"));
    let classes = yolo_classes(folder)?;
    let mut pictures = BTreeMap::new();
    for path in files_below(&images)?.into_iter().filter(|path| is_picture(path)) {
        pictures.insert(name_below(&path.with_extension(""), &images), path);
    }
    let mut found = Found::default();
    for path in files_below(&labels)?.iter().filter(|path| path.extension().is_some_and(|end| end == "txt")) {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let stem = name_below(&path.with_extension(""), &labels);
        let picture = pictures.get(&stem);
        let picture =
            picture.with_context(|| format!("{}: there is no picture images/{stem}.*", path.display()))?;
        let (width, height) = refcoco::image_size(picture)?;
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = || format!("{}: line {}", path.display(), index + 1);
            let numbers: Vec<f64> = line
                .split_whitespace()
                .map(|word| word.parse().context("expected numbers"))
                .collect::<Result<_>>()
                .with_context(at)?;
            let (Some(class), true) = (numbers.first(), numbers.len() % 2 == 1) else {
                bail!("{}: expected a class and pairs of x and y", at());
            };
            if numbers.len() < 7 {
                found.leave_out("boxes, which are no masks");
                continue;
            }
            ensure!(
                numbers[1..].iter().all(|number| (-0.01..=1.01).contains(number)),
                "{}: coordinates must be shares of the picture's size, 0 to 1",
                at()
            );
            ensure!(
                *class >= 0.0 && class.fract() == 0.0,
                "{}: the class must be a whole number from 0 on",
                at()
            );
            let scaled = numbers[1..].as_chunks::<2>().0.iter();
            let corners: Vec<f64> = scaled.flat_map(|[x, y]| [x * width as f64, y * height as f64]).collect();
            let class = *class as usize;
            let name = name_below(picture, &images);
            found.objects.push(Labelled {
                split: split_of_path(&name),
                name,
                picture: picture.clone(),
                mask: LabelledMask::Coco(json!([corners])),
                category: Some(classes.get(&class).cloned().unwrap_or_else(|| format!("class {class}"))),
                expressions: Vec::new(),
                number: None,
                crowd: false,
            });
        }
    }
    Ok(found)
}

/// Names of classes by number: `names` of a YAML file (a list or a mapping), or a line each of `classes.txt`.
fn yolo_classes(folder: &Path) -> Result<BTreeMap<usize, String>> {
    let clean = |name: &str| name.trim().trim_matches(['"', '\'']).to_owned();
    for name in ["classes.txt", "obj.names"] {
        if let Ok(text) = std::fs::read_to_string(folder.join(name)) {
            return Ok(text.lines().map(clean).enumerate().collect());
        }
    }
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let Some(path) = files_below(folder)?.into_iter().find(is_yaml) else { return Ok(BTreeMap::new()) };
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    // The key stands at the beginning of its line; `# class names:` is a comment.
    let Some(at) =
        text.match_indices("names:").map(|(at, _)| at).find(|&at| at == 0 || text[..at].ends_with('\n'))
    else {
        return Ok(BTreeMap::new());
    };
    let names = &text[at + "names:".len()..];
    let first = names.lines().next().unwrap_or_default().trim();
    if first.starts_with(['[', '{']) {
        // A flow list or mapping, perhaps over several lines.
        let end =
            names.find([']', '}']).with_context(|| format!("{}: `names` has no end", path.display()))?;
        let entries = names[..end].trim().trim_start_matches(['[', '{']).split(',').map(str::trim);
        let entries = entries.filter(|entry| !entry.is_empty()).enumerate();
        return Ok(entries
            .map(|(place, entry)| match entry.split_once(':').map(|(key, name)| (key.trim().parse(), name)) {
                Some((Ok(number), name)) if first.starts_with('{') => (number, clean(name)),
                _ => (place, clean(entry)),
            })
            .collect());
    }
    let mut classes = BTreeMap::new();
    for line in names.lines().skip(1).take_while(|line| line.starts_with([' ', '-', '\t']) || line.is_empty())
    {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('-') {
            classes.insert(classes.len(), clean(name));
        } else if let Some((number, name)) = line.split_once(':')
            && let Ok(number) = number.trim().parse()
        {
            classes.insert(number, clean(name));
        }
    }
    Ok(classes)
}

/// Reads folders `images` and `masks`. A mask is `masks/NAME.png`, `masks/NAME_WORDS.png` or `masks/NAME/WORDS.png`; the words are its
/// expression.
pub(super) fn masks(folder: &Path, has_table: bool) -> Result<Found> {
    let (images, masks) = (folder.join("images"), folder.join("masks"));
    let pictures: Vec<(String, PathBuf)> = files_below(&images)?
        .into_iter()
        .filter(|path| is_picture(path))
        .map(|path| (name_below(&path.with_extension(""), &images), path))
        .collect();
    let mut found = Found::default();
    for path in files_below(&masks)?.into_iter().filter(|path| is_picture(path)) {
        let name = name_below(&path.with_extension(""), &masks);
        // The longest picture name that the mask's name begins with.
        let fits = |stem: &str| {
            name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '/']))
        };
        let fitting = pictures.iter().filter(|(stem, _)| fits(stem)).max_by_key(|(stem, _)| stem.len());
        let (stem, picture) =
            fitting.with_context(|| format!("{}: no picture in images has its name", path.display()))?;
        let words = name[stem.len()..].trim_start_matches(['_', '/']).replace(['_', '/'], " ");
        ensure!(
            has_table || !words.is_empty(),
            "{}: its name has no expression; name it {stem}_EXPRESSION.png, or give --expressions FILE.csv with the columns mask \
             and expression",
            path.display()
        );
        let picture_name = name_below(picture, &images);
        found.objects.push(Labelled {
            split: split_of_path(&picture_name),
            name: picture_name,
            picture: picture.clone(),
            mask: LabelledMask::File(path),
            category: None,
            expressions: if has_table { Vec::new() } else { vec![words] },
            number: None,
            crowd: false,
        });
    }
    Ok(found)
}
