use std::path::PathBuf;

use clap::Args;
use command_kit::DEFAULT_DATA_ROOT;

/// Arguments of `studio`.
#[derive(Debug, Clone, Args)]
pub struct StudioArgs {
    /// Data sets to browse [default: those of the runs; refshapes if there is nothing else to show]
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub dataset: Vec<String>,
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    pub data_root: PathBuf,
    /// Folders of runs to compare; a run that is going on is shown live
    #[arg(long = "run", num_args = 1.., value_name = "DIR")]
    pub runs: Vec<PathBuf>,
    /// Files of predicted masks to compare, as `eval --predictions` reads them
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub predictions: Vec<PathBuf>,
    /// Port; 0 takes any that is free
    #[arg(long, default_value_t = 8765)]
    pub port: u16,
    /// Serve other machines, too, under these names of this one (as in their address bar). Whoever has the address with its token can
    /// then see the data and use the models; the connection is not encrypted. Without it, only this machine is served
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub host: Vec<String>,
    /// Do not open a browser
    #[arg(long)]
    pub no_open: bool,
}
