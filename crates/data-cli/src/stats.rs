use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use cli_kit::outln;
use figures::{BarPanel, Bars};
use refcoco::{DatasetStats, SplitStats, TARGET_PERCENT_BOUNDS};

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Data set, such as refcoco
    #[arg(long)]
    dataset: String,
    /// Folder of the data sets
    #[arg(long, default_value = command_kit::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// PNG file for the plot [default: stats-NAME.png, none with --json]
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn stats(args: &StatsArgs) -> Result<()> {
    let dataset = command_kit::open(&args.dataset, &args.data_root)?;
    let stats = dataset.stats()?;
    let plot = match (&args.plot, args.json) {
        (None, false) => {
            Some(PathBuf::from(format!("stats-{}.png", dataset.descriptor.name.replace('/', "_"))))
        }
        (plot, _) => plot.clone(),
    };
    if let Some(path) = &plot {
        figures::bars(path, &panels(&stats))?;
    }
    if args.json {
        outln!("{}", serde_json::to_string(&stats)?);
        return Ok(());
    }
    outln!("{}", table(&stats));
    if let Some(path) = plot {
        outln!("{}", path.display());
    }
    Ok(())
}

fn rows(stats: &DatasetStats) -> impl Iterator<Item = (&str, &SplitStats)> {
    stats.splits.iter().map(|(name, split)| (name.as_str(), split)).chain([("total", &stats.total)])
}

fn table(stats: &DatasetStats) -> String {
    let mut lines = vec![format!(
        "{:8} {:>7} {:>11} {:>8} {:>7} {:>8} {:>11} {:>15} {:>16} {:>28}",
        "split",
        "refs",
        "expressions",
        "cut at K",
        "images",
        "words",
        "words/expr.",
        "with distractor",
        "distractors/ref",
        "target % (10th, median, 90th)"
    )];
    for (name, split) in rows(stats) {
        let share = 100.0 * split.refs_with_distractor as f64 / split.refs.max(1) as f64;
        let [low, _, median, _, high] = split.target_percent;
        lines.push(format!(
            "{name:8} {:>7} {:>11} {:>8} {:>7} {:>8} {:>11.2} {share:>13.1} % {:>16.2} {low:>14.2} {median:>6.2} {high:>7.2}",
            split.refs,
            split.expressions,
            split.expressions_cut,
            split.images,
            split.words,
            split.words as f64 / split.expressions.max(1) as f64,
            split.mean_distractors,
        ));
    }
    let SplitStats { refs_without_target, refs_with_several_targets, .. } = stats.total;
    if refs_without_target + refs_with_several_targets > 0 {
        lines.push(format!(
            "{refs_without_target} refs have no target, {refs_with_several_targets} have several"
        ));
    }
    lines.join("\n")
}

/// Most words that are shown as single bars.
const MAX_WORDS: usize = 15;

fn panels(stats: &DatasetStats) -> Vec<BarPanel> {
    let panel = |title: &str,
                 x_label: &str,
                 classes: Vec<String>,
                 counts: &dyn Fn(&SplitStats) -> Vec<usize>| {
        let series = stats.splits.iter().map(|(name, split)| {
            let counts = counts(split);
            let all = counts.iter().sum::<usize>().max(1) as f64;
            Bars {
                name: name.clone(),
                values: counts.iter().map(|&n| 100.0 * n as f64 / all).collect(),
                deviations: vec![],
            }
        });
        BarPanel { title: title.to_owned(), x_label: x_label.to_owned(), classes, series: series.collect() }
    };
    let mut words: Vec<String> = (1..MAX_WORDS).map(|n| n.to_string()).collect();
    words.push(format!("{MAX_WORDS}+"));
    let mut areas: Vec<String> = TARGET_PERCENT_BOUNDS.iter().map(|bound| format!("<{bound}")).collect();
    areas.push("more".to_owned());
    vec![
        panel("words per expression (% of expressions)", "words", words, &|split| {
            let mut counts = vec![0; MAX_WORDS];
            for (n, &count) in split.expressions_by_words.iter().enumerate() {
                counts[n.clamp(1, MAX_WORDS) - 1] += count;
            }
            counts
        }),
        panel("target area (% of refs)", "% of the image", areas, &|split| {
            split.refs_by_target_percent.to_vec()
        }),
        panel(
            "same-category distractors (% of refs)",
            "distractors",
            ["0", "1", "2", "3+"].map(str::to_owned).to_vec(),
            &|split| split.refs_by_distractors.to_vec(),
        ),
    ]
}
