//! Tables of hand-written runs.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use metrics::{Activation, Evaluated, SplitReport};
use polars::prelude::{ParquetReader, SerReader};
use run_files::{
    Cell, EvalRecord, EvalTime, Metrics, Record, RunTime, VERSION, records_file, write_expressions,
};
use serde_json::json;

/// Writes a run. For each expression, `hits` has the pixels that it covers of a target of ten pixels and of a distractor of
/// ten.
fn write_run(folder: &Path, row: &str, seed: u64, hits: &[(usize, usize)]) {
    std::fs::create_dir_all(folder).unwrap();
    let mask = |from: usize, n: usize| {
        (0..30).map(|at| u8::from((from..from + n).contains(&at))).collect::<Vec<u8>>()
    };
    let evaluated: Vec<Evaluated> = hits
        .iter()
        .enumerate()
        .map(|(index, &(on_target, on_distractor))| {
            let prediction: Vec<u8> =
                mask(0, on_target).iter().zip(mask(10, on_distractor)).map(|(a, b)| a | b).collect();
            Evaluated {
                ref_id: index as i64,
                sent_id: 100 + index as i64,
                has_position_word: false,
                flavour: (index == 0).then(|| "location".to_owned()),
                box_iou: Some(if on_target > 5 { 0.8 } else { 0.1 }),
                activation: Activation::of_mask(&prediction, &mask(0, 10), &[&mask(10, 10)]),
            }
        })
        .collect();
    let report = SplitReport::new(&evaluated);
    let metrics = Metrics {
        version: Some(VERSION.to_owned()),
        step: 10,
        best_val_miou: None,
        trained_values: 1234,
        splits: BTreeMap::from([("val".to_owned(), report.clone())]),
        bad_samples: BTreeSet::new(),
        left_out_refs: BTreeSet::new(),
        runtime: RunTime { median_step_seconds: Some(0.25), peak_rss_mib: Some(512.0), ..RunTime::default() },
    };
    metrics.write(folder).unwrap();
    write_expressions(folder, vec![("val".to_owned(), evaluated)]).unwrap();
    let record = Record::Eval(EvalRecord {
        step: 10,
        epoch: 1,
        split: "val".to_owned(),
        report,
        runtime: EvalTime::default(),
    });
    std::fs::write(records_file(folder), format!("{}\n", serde_json::to_string(&record).unwrap())).unwrap();
    let config =
        format!("name = \"testbed\"\nseed = {seed}\n[loss]\ncpcl = 0.1\n[data]\ndatasets = [\"refcoco\"]\n");
    std::fs::write(folder.join("config.toml"), config).unwrap();
    let cell = Cell { ablation: String::new(), row: row.to_owned(), seed, set: vec![], max_steps: None };
    cell.write(folder).unwrap();
}

/// Two rows with two seeds each, a run that was cut short, and one of another version.
fn runs() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join("study").join(name);
    write_run(&at("b/seed-1"), "baseline", 1, &[(5, 5), (8, 0)]);
    write_run(&at("b/seed-2"), "baseline", 2, &[(5, 5), (8, 0)]);
    write_run(&at("a/seed-1"), "all_parts", 1, &[(10, 0), (10, 0)]);
    write_run(&at("a/seed-2"), "all_parts", 2, &[(10, 0), (10, 0)]);
    write_run(&at("c/seed-1"), "cut", 1, &[(1, 1)]);
    std::fs::remove_file(at("c/seed-1").join("metrics.json")).unwrap();
    write_run(&at("d/seed-1"), "old", 1, &[(1, 1)]);
    let metrics = at("d/seed-1").join("metrics.json");
    let text = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(&metrics, text.replace(env!("CARGO_PKG_VERSION"), "0.0.9")).unwrap();
    let plan = json!({"name": "study", "baseline": "baseline", "rows": [{"name": "baseline"}, {"name": "all_parts"}]});
    std::fs::write(root.path().join("study/ablation.json"), plan.to_string()).unwrap();
    root
}

fn results(root: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_talent-results"))
        .args(["--runs", &root.join("study").to_string_lossy()])
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_table_by_hand() {
    let root = runs();
    let output = results(root.path(), &["--format", "md"]);
    let table = stdout(&output);
    let lines: Vec<&str> = table.lines().collect();
    // IoU 5/15 and 8/10; the plan's order, not the folders'.
    assert!(lines[2].starts_with("| baseline | 2 | 56.67 ± 0.00 | - |"), "{table}");
    assert!(
        lines[3].starts_with("| all_parts | 2 | **100.00 ± 0.00** | +43.33 [+20.00, +66.67] |"),
        "{table}"
    );
    // NTA mass: 0.5 and 0 against 0 and 0.
    assert!(lines[2].contains("| 25.00 ± 0.00 | - |"), "{table}");
    // The interval of the difference holds 0, so that no row is marked as the best.
    assert!(lines[3].contains("| 0.00 ± 0.00 | -25.00 [-50.00, +0.00] |"), "{table}");
    assert!(lines[2].ends_with("| 1234 | 0.250 | 512 |"), "{table}");
    // Published results on this data set.
    assert!(table.contains("TALENT-B 77.77"), "{table}");
    let left_out = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(left_out.contains("c/seed-1: it is not finished"), "{left_out}");
    assert!(left_out.contains("d/seed-1: it is of another version (0.0.9"), "{left_out}");
}

#[test]
fn other_forms() {
    let root = runs();
    let tex = stdout(&results(root.path(), &["--format", "tex"]));
    assert!(tex.contains("all\\_parts") && tex.contains("\\toprule") && tex.contains("$\\pm$"), "{tex}");
    let by_key = stdout(&results(root.path(), &["--group-by", "loss.cpcl,seed"]));
    assert!(by_key.contains("0.1, 1") && by_key.contains("0.1, 2"), "{by_key}");
    let missing = results(root.path(), &["--group-by", "loss.nothing"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("`loss.nothing`"));
    let none = results(root.path(), &["--split", "testZ"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("`testZ`"));

    let (csv, parquet) = (root.path().join("runs.csv"), root.path().join("expressions.parquet"));
    stdout(&results(
        root.path(),
        &["--format", "csv", "--out", csv.to_str().unwrap(), "--expressions", parquet.to_str().unwrap()],
    ));
    let csv = std::fs::read_to_string(csv).unwrap();
    assert!(csv.starts_with("run,row,seed,split,group,mIoU"), "{csv}");
    assert!(csv.lines().any(|line| line.contains("baseline,1,val,all,56.6")), "{csv}");
    let frame = ParquetReader::new(File::open(parquet).unwrap()).finish().unwrap();
    assert_eq!(frame.shape(), (8, 18));
}

#[test]
fn the_report_stands_alone() {
    let root = runs();
    let page = root.path().join("report.html");
    let plot = root.path().join("differences.png");
    let files = ["--report", page.to_str().unwrap(), "--plot", plot.to_str().unwrap()];
    stdout(&results(root.path(), &files));
    assert!(plot.is_file() && plot.with_extension("svg").is_file());
    let page = std::fs::read_to_string(page).unwrap();
    for part in ["<h1>ablation study</h1>", "<b>100.00 ± 0.00</b>", "<svg", "it is not finished"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"));
}

#[test]
fn the_report_shows_where_lines_differ_most() {
    let root = tempfile::tempdir().unwrap();
    let settings = refcoco::refshapes::Settings {
        train_images: 1,
        val_images: 2,
        test_a_images: 1,
        test_b_images: 1,
        ..Default::default()
    };
    refcoco::refshapes::generate(&settings, root.path(), |_| {}).unwrap();
    let dataset = refcoco::Dataset::open("refshapes", root.path()).unwrap();
    let reference = &dataset.refs[dataset.split("val").unwrap()[0]];
    let (ref_id, sent_id) = (reference.ref_id, reference.expressions[0].sent_id);
    for (row, hits) in [("baseline", (2, 8)), ("all_parts", (10, 0))] {
        let folder = root.path().join("runs").join(row);
        write_run(&folder, row, 1, &[hits]);
        for (name, from, to) in [
            ("config.toml", "\"refcoco\"".to_owned(), "\"refshapes\"".to_owned()),
            (
                "expressions.jsonl",
                "\"ref_id\":0,\"sent_id\":100".to_owned(),
                format!("\"ref_id\":{ref_id},\"sent_id\":{sent_id}"),
            ),
        ] {
            let file = folder.join(name);
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(&from), "{text}");
            std::fs::write(&file, text.replace(&from, &to)).unwrap();
        }
        let mask = dataset.target(reference).unwrap();
        let line = json!({
            "ref_id": ref_id, "sent_id": sent_id,
            "segmentation": {"size": [mask.height, mask.width], "counts": mask.to_rle_string()},
        });
        std::fs::write(folder.join("predictions.jsonl"), format!("{line}\n")).unwrap();
    }
    let page = root.path().join("report.html");
    let page_path = page.to_str().unwrap();
    let report = |runs: &str| {
        let runs = root.path().join(runs).join("*");
        let output = Command::new(env!("CARGO_BIN_EXE_talent-results"))
            .args(["--runs", runs.to_str().unwrap(), "--report", page_path, "--data-root"])
            .arg(root.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(&page).unwrap()
    };
    assert!(report("runs").contains("alt=\"predictions\""));
    std::fs::remove_file(root.path().join("runs/baseline/predictions.jsonl")).unwrap();
    let without = report("runs");
    assert!(
        !without.contains("alt=\"predictions\"") && without.contains("No pictures: fewer than two lines")
    );
}

#[test]
fn runs_of_one_seed_are_no_repetitions() {
    let root = tempfile::tempdir().unwrap();
    for name in ["short", "long"] {
        write_run(&root.path().join("study").join(name), "tiny", 0, &[(5, 5), (10, 0)]);
    }
    let table = stdout(&results(root.path(), &[]));
    for name in ["short", "long"] {
        assert!(table.lines().any(|line| line.starts_with("tiny (") && line.contains(name)), "{table}");
    }
    // The footnote stands where a row is marked.
    assert!(!table.contains("* better than every other row"), "{table}");
}

#[test]
fn other_numbers_of_expressions_are_noted() {
    let root = tempfile::tempdir().unwrap();
    write_run(&root.path().join("study/short"), "tiny", 0, &[(5, 5)]);
    write_run(&root.path().join("study/long"), "tiny", 1, &[(5, 5), (10, 0)]);
    let table = stdout(&results(root.path(), &[]));
    assert!(table.contains("val: runs were evaluated on 1 to 2 expressions"), "{table}");
}

#[test]
fn repetitions_in_one_folder_stay_together() {
    let root = tempfile::tempdir().unwrap();
    for (study, lr) in [("first", "0.1"), ("second", "0.2")] {
        for seed in 1..=3 {
            let run = root.path().join(format!("study/{study}/baseline/seed-{seed}"));
            write_run(&run, "baseline", seed, &[(5, 5), (10, 0)]);
            let config = run.join("config.toml");
            let text = std::fs::read_to_string(&config).unwrap();
            std::fs::write(&config, format!("{text}[train]\nlr = {lr}\n")).unwrap();
        }
    }
    let table = stdout(&results(root.path(), &["--format", "md"]));
    for study in ["first", "second"] {
        let row = format!("study/{study}/baseline) | 3 |");
        assert!(table.lines().any(|line| line.contains(&row)), "{table}");
    }
    assert!(table.contains("no differences without a baseline"), "{table}");
    let log = String::from_utf8_lossy(&results(root.path(), &["--baseline", "baseline"]).stderr).into_owned();
    assert!(log.contains("several studies have a row `baseline`; the baseline can be `baseline ("), "{log}");
}

#[test]
fn groups_with_several_runs_of_a_seed_are_not_compared() {
    let root = runs();
    let table =
        stdout(&results(root.path(), &["--group-by", "loss.cpcl", "--baseline", "0.1", "--format", "md"]));
    assert!(table.contains("several runs of one seed"), "{table}");
    // Where each seed occurs once, there are differences.
    let table =
        stdout(&results(root.path(), &["--group-by", "loss.cpcl,row", "--baseline", "0.1, baseline"]));
    assert!(!table.contains("several runs") && table.contains('['), "{table}");
}

#[test]
fn impossible_measurements_leave_a_run_out() {
    let root = runs();
    let left_out = |change: &dyn Fn(&str) -> String| {
        let file = root.path().join("study/a/seed-1/expressions.jsonl");
        let whole = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(&whole)).unwrap();
        let log = String::from_utf8_lossy(&results(root.path(), &[]).stderr).into_owned();
        std::fs::write(&file, whole).unwrap();
        log
    };
    let twice =
        left_out(&|text| text.lines().next().map(|line| format!("{line}\n{line}\n")).unwrap_or_default());
    assert!(twice.contains("it holds 1 of the 2 expressions of val"), "{twice}");
    let more = left_out(&|text| text.replacen("\"intersection\":10", "\"intersection\":11", 1));
    assert!(more.contains("ref 0, sentence 100: more pixels in common"), "{more}");
}

#[test]
fn no_file_is_written_before_all_can_be() {
    let root = runs();
    let (page, plot) = (root.path().join("page.svg"), root.path().join("page.png"));
    let (page, plot) = (page.to_str().unwrap(), plot.to_str().unwrap());
    for args in [
        &["--out", page, "--plot", plot][..],
        &["--expressions", page, "--format", "csv"],
        &["--expressions", page, "--baseline", "nope"],
        &["--plot", page],
    ] {
        assert!(!results(root.path(), args).status.success(), "{args:?}");
        assert!(!Path::new(page).exists() && !Path::new(plot).exists(), "{args:?}");
    }
}

#[test]
fn runs_of_other_configs_are_no_repetitions() {
    let root = tempfile::tempdir().unwrap();
    for (name, seed, lr) in [("a", 1, "0.1"), ("b", 2, "0.2")] {
        let run = root.path().join("study").join(name);
        write_run(&run, "tiny", seed, &[(5, 5), (10, 0)]);
        let config = run.join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{text}[train]\nlr = {lr}\n")).unwrap();
    }
    let table = stdout(&results(root.path(), &[]));
    assert_eq!(table.lines().filter(|line| line.starts_with("tiny (")).count(), 2, "{table}");
    // Remove half of the run's expressions.
    let file = root.path().join("study/a/expressions.jsonl");
    let half = std::fs::read_to_string(&file).unwrap().lines().next().unwrap().to_owned();
    std::fs::write(&file, format!("{half}\n")).unwrap();
    let said = String::from_utf8_lossy(&results(root.path(), &[]).stderr).into_owned();
    assert!(said.contains("it holds 1 of the 2 expressions of val"), "{said}");
}
