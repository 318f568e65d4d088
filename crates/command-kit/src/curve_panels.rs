use figures::{Panel, Series};
use metrics::METRICS;
use run_files::Record;

/// Charts of a run: loss terms, and validation metrics, over the steps.
pub fn curve_panels(records: &[Record]) -> [Panel; 2] {
    let (mut loss, mut metrics): (Vec<Series>, Vec<Series>) = Default::default();
    let add = |all: &mut Vec<Series>, name: &str, point: (f64, f64)| match all
        .iter_mut()
        .find(|series| series.name == name)
    {
        Some(series) => series.points.push(point),
        None => all.push(Series { name: name.to_owned(), points: vec![point] }),
    };
    for record in records {
        match record {
            Record::Step(step) => {
                let terms = step.loss.iter().filter_map(|(name, value)| Some((name, (*value)?)));
                terms.for_each(|(name, value)| add(&mut loss, name, (step.step as f64, value)));
            }
            Record::Eval(eval) => {
                for metric in METRICS.iter().filter(|metric| metric.while_training) {
                    if let Some(value) = (metric.of)(&eval.report.all) {
                        let name = format!("{} {}", eval.split, metric.heading);
                        add(&mut metrics, &name, (eval.step as f64, value));
                    }
                }
            }
            Record::Final(_) => {}
        }
    }
    let smoothed = |series: Series| Series { points: smooth(series.points), name: series.name };
    let loss = loss.into_iter().map(smoothed);
    [
        Panel { title: "training loss".into(), x_label: "step".into(), series: loss.collect() },
        Panel { title: "validation (%)".into(), x_label: "step".into(), series: metrics },
    ]
}

/// Means over chunks of a hundredth of the run, which show the trend of a noisy curve.
fn smooth(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let window = (points.len() / 100).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        (
            chunk.iter().map(|point| point.0).sum::<f64>() / n,
            chunk.iter().map(|point| point.1).sum::<f64>() / n,
        )
    };
    points.chunks(window).map(mean).collect()
}
