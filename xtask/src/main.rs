//! `cargo xtask`: set-up, checks, and a front end of the programs. It installs libtorch, so it depends on no crate that needs it.

mod ahead;
mod doctor;
mod forward;
mod guests;
mod launch;
mod libtorch;
mod lock;
mod pack;
mod project;
mod setup;
mod tests_and_ci;
mod wheel;
mod worked_changes;

use std::ffi::{OsStr, OsString};

use anyhow::{Context, Result, bail};
use cli_kit::{errln, outln};

const HELP: &str = "\
cargo xtask COMMAND

  setup                 find or install libtorch and link it as .libtorch
  doctor [--json]       what this machine has: toolchain, libtorch, devices, data sets
  test [ARGS]           all tests; ARGS go to `cargo test`
  guests                build and run projects outside the workspace that use its crates, and the changes of docs/extending.md
  ci                    formatting, clippy, tests, documentation, guests, and a trial of a pack

  train [...]           train, evaluate and draw a model        (each has --help)
  launch --nproc N train [...]   train in several processes, on one or several machines
  ablate [...]          train every row of a plan with every seed
  results [...]         tables, plots and reports of runs; needs no libtorch
  lr-find [...]         find a learning rate, with its plot
  gradients [...]       measure the gradient of each loss term at each group of parameters
  pretrain [...]        make the frozen encoders of the testbed
  eval [...]            evaluate a checkpoint, or a file of masks with --predictions FILE
  predict [...]         segment expressions in images
  studio [...]          try models, browse data sets and compare predictions on a local web page
  params [...]          count parameters
  parity [...]          compare with recordings of the official implementation
  export [...]          write a checkpoint as a state dictionary, a TorchScript module, or a folder to upload
  check-device [...]    check on a device that everything works, and how fast
  pack --out DIR        a folder that runs where there is no Rust toolchain, beside PyTorch
  wheel --out DIR [--test]   the Python package talent_ris as one .whl; --test tries it in a fresh virtual environment
  fetch NAME... | --for CONFIG | list   download data sets and pretrained encoders; needs no libtorch
  data [...]            list, stats, verify, show, import, synth; needs no libtorch

  bench data [...]      time the making of training samples; needs no libtorch
  bench WHAT [...]      time a training step, forward, eval, or the consistency loss: step, forward, eval, loss; count the
                        operators of a step: operators

What needs libtorch runs target/release/talent after set-up and build.";

fn main() -> std::process::ExitCode {
    match run().and_then(|()| Ok(cli_kit::finish_output()?)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            errln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn text(arg: &OsStr) -> Result<&str> {
    arg.to_str().with_context(|| format!("{}: this argument is not UTF-8", arg.display()))
}

/// Whether `studio` is to make predictions, or is asked for all of its arguments.
fn needs_network(args: &[OsString]) -> bool {
    let named = |arg: &OsString| arg.to_string_lossy().split('=').next().unwrap_or_default().to_owned();
    args.iter().map(named).any(|name| ["--checkpoint", "--run", "--help", "-h"].contains(&name.as_str()))
}

fn run() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    match text(&command)? {
        "setup" => setup::setup().map(|_| ()),
        "doctor" => doctor::doctor(&rest),
        "test" => tests_and_ci::test(&rest),
        "guests" => guests::guests().and_then(|()| worked_changes::try_out()),
        "ci" => tests_and_ci::ci(),
        "data" => forward::to_data_program("", &rest),
        "fetch" => forward::to_data_program("fetch", &rest),
        "results" => forward::to_results_program(&rest),
        // Browsing and comparing need no libtorch.
        "studio" if !needs_network(&rest) => forward::to_data_program("studio", &rest),
        "bench" => match rest.split_first() {
            Some((what, rest)) if what == "data" => forward::to_data_program("bench", rest),
            _ => forward::to_talent("bench", &rest),
        },
        // `score` needs no libtorch, so masks of other programs can be scored without it.
        "eval" if rest.iter().any(|arg| arg.to_string_lossy().split('=').next() == Some("--predictions")) => {
            forward::to_data_program("score", &rest)
        }
        "train" | "ablate" | "pretrain" | "lr-find" | "gradients" | "eval" | "predict" | "studio"
        | "params" | "parity" | "export" | "check-device" => forward::to_talent(text(&command)?, &rest),
        "launch" => launch::launch(&rest),
        "pack" => pack::pack(&rest),
        "wheel" => wheel::wheel(&rest),
        "" | "help" | "--help" | "-h" => {
            outln!("{HELP}");
            Ok(())
        }
        other => bail!("unknown command `{other}`\n\n{HELP}"),
    }
}
