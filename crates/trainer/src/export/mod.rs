//! `export`: writes a checkpoint's network in forms that other programs read.

mod hf;
mod torchscript;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cli_kit::errln;
use talent::weights::{Strictness, peft_tensors, read_tensor};
use talent::{LORA, Talent, Tuning};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use torch_ext::LowRankUpdate;
use weight_files::{PEFT_CONFIG_FILE, WEIGHT_FILES, WeightFile};

use crate::checkpoint::{EncoderRoot, Meta, is_same, load_model, verified_meta, write_tensors};

/// The form of an exported network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// The official state dictionary: NAME.safetensors
    #[default]
    Safetensors,
    /// The evaluation pass as a module that torch.jit.load runs: NAME.pt
    Torchscript,
    /// A new folder to upload to Hugging Face: the whole network, its config, a model card
    Hf,
}

impl Format {
    /// Extension of the file; `None` for a folder.
    fn extension(self) -> Option<&'static str> {
        match self {
            Self::Safetensors => Some("safetensors"),
            Self::Torchscript => Some("pt"),
            Self::Hf => None,
        }
    }
}

/// What `export` writes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ExportForm {
    /// Form of the file
    #[arg(long, default_value = "safetensors", requires = "to")]
    pub(crate) format: Format,
    /// What to write, the whole network: NAME.safetensors, NAME.pt with --format torchscript, a new folder with --format hf. It or
    /// --peft, or both
    #[arg(long, required_unless_present = "peft", value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Add LoRA's matrices to the weights that they update, and leave them out
    #[arg(long, requires = "to")]
    pub(crate) merge: bool,
    /// New folder for LoRA's matrices alone, as the peft library has them: DIR/image and DIR/text
    #[arg(long, value_name = "DIR")]
    pub(crate) peft: Option<PathBuf>,
}

/// Writes a checkpoint's network in a [`Format`], its LoRA matrices in `peft`'s folders, or both.
pub(crate) fn export(checkpoint: &Path, form: &ExportForm, root: &EncoderRoot) -> Result<()> {
    if let (Some(to), Some(wanted)) = (&form.to, form.format.extension()) {
        ensure!(
            to.extension().is_some_and(|extension| extension == wanted),
            "--to {}: the name must end in .{wanted}",
            to.display()
        );
    }
    let refuse_source = |source: &Path| -> Result<()> {
        for to in [&form.to, &form.peft].into_iter().flatten() {
            ensure!(!is_same(source, to), "{}: this is what is read; write elsewhere", to.display());
        }
        Ok(())
    };
    refuse_source(checkpoint)?;
    let Some(meta) = verified_meta(checkpoint)? else {
        ensure!(
            !form.merge && form.peft.is_none() && form.format == Format::Safetensors,
            "{}: it is no checkpoint of this program, and --format, --merge and --peft need one; `train --init` with --config makes one of it",
            checkpoint.display()
        );
        return write_network(form, foreign_tensors(checkpoint)?);
    };
    for encoder in [&meta.encoders.image, &meta.encoders.text].into_iter().flatten() {
        refuse_source(&root.find(&encoder.path))?;
    }
    ensure!(
        form.peft.is_none() || form.format == Format::Safetensors,
        "--peft goes with --format safetensors; the folder of --format hf has the matrices already"
    );
    let is_lora = meta.config.model.tuning == Tuning::Lora;
    ensure!(is_lora || !form.merge, "--merge: this network has no LoRA matrices (model.tuning is not lora)");
    let load = || -> Result<Talent> {
        let model = Talent::new(&meta.config.model, Device::Cpu, Kind::Float)?;
        load_model(&model, checkpoint, Some(&meta), &Strictness::default(), root)?;
        Ok(model)
    };
    let model = load()?;
    if let (Format::Hf, Some(to)) = (form.format, &form.to) {
        ensure!(!form.merge, "--merge: the folder has LoRA's matrices beside the weights that they update");
        return hf::write(to, checkpoint, &model, &meta);
    }
    if let Some(folder) = &form.peft {
        write_peft(&model, &meta, folder)?;
    }
    if form.merge {
        model.store().low_rank_updates().iter().for_each(LowRankUpdate::merge);
    }
    if let (Format::Torchscript, Some(to)) = (form.format, &form.to) {
        let other = load()?;
        if form.merge {
            other.store().low_rank_updates().iter().for_each(LowRankUpdate::merge);
        }
        return torchscript::write(to, &meta.config, [&model, &other]);
    }
    let entries = model.store().entries().into_iter();
    let kept = entries.filter(|(_, entry)| !(form.merge && entry.group == LORA));
    write_network(form, kept.map(|(name, entry)| (name, entry.tensor)).collect())
}

fn write_network(form: &ExportForm, tensors: Vec<(String, Tensor)>) -> Result<()> {
    let Some(to) = &form.to else { return Ok(()) };
    let n = tensors.len();
    let has_lora = tensors.iter().any(|(name, _)| name.ends_with(".lora_A.weight"));
    write_tensors(to, tensors, ("format", "pt"))?;
    errln!("{}: {n} tensors", to.display());
    if has_lora {
        errln!("LoRA's matrices lie beside the weights; with --merge they are added to them");
    }
    Ok(())
}

/// A temporary folder beside `to`, from which a finished file or folder is renamed to there. The folder that `to` is in is made if it is
/// missing.
fn staging_beside(to: &Path) -> Result<TempDir> {
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let made = tempfile::Builder::new().prefix(".export.").tempdir_in(parent);
    made.with_context(|| parent.display().to_string())
}

/// Writes LoRA's matrices of both encoders. The folder appears whole or not at all.
fn write_peft(model: &Talent, meta: &Meta, to: &Path) -> Result<()> {
    ensure!(!to.exists(), "--peft {}: it exists already", to.display());
    let partial = staging_beside(to)?;
    let written = peft_folders(model, meta, partial.path())?;
    ensure!(!written.is_empty(), "--peft {}: this network has no LoRA matrices", to.display());
    std::fs::rename(partial.keep(), to).with_context(|| to.display().to_string())?;
    errln!("{}: {}", to.display(), written.join(", "));
    Ok(())
}

/// Writes LoRA's matrices as the folders `image` and `text` of this one. Says what is in them.
fn peft_folders(model: &Talent, meta: &Meta, to: &Path) -> Result<Vec<String>> {
    let cfg = &meta.config.model;
    let mut written = Vec::new();
    for (name, spec) in
        [("image", cfg.image.spec().without_input()), ("text", cfg.text.spec().without_input())]
    {
        let Some((tensors, config)) = peft_tensors(model.store(), &spec, &cfg.lora) else { continue };
        let folder = to.join(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        written.push(format!("{name} ({} matrices)", tensors.len()));
        write_tensors(&folder.join(WEIGHT_FILES[0]), tensors, ("format", "pt"))?;
        let text = format!("{:#}\n", config.to_json());
        whole_file::write(&folder.join(PEFT_CONFIG_FILE), text.as_bytes())?;
    }
    Ok(written)
}

/// The network's tensors in a checkpoint of another program, with their official names.
fn foreign_tensors(checkpoint: &Path) -> Result<Vec<(String, Tensor)>> {
    let mut file = WeightFile::open(checkpoint)?;
    let names = talent::weights::official_names(&file);
    if !names.contains_key("neck.txt_proj.weight") {
        let family =
            weight_files::family(&file).map_or_else(String::new, |what| format!("; it looks like {what}"));
        bail!("{}: this is no checkpoint of the whole network{family}", checkpoint.display());
    }
    let mut tensors = Vec::with_capacity(names.len());
    for (name, stored) in &names {
        tensors.push((name.clone(), read_tensor(&mut file, stored)?));
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recordings::{best_model, recorded};

    fn export_to(checkpoint: &Path, to: &Path) -> Result<()> {
        let form = ExportForm { to: Some(to.to_path_buf()), ..ExportForm::default() };
        export(checkpoint, &form, &EncoderRoot::default())
    }

    #[test]
    fn an_export_is_the_official_state_dictionary() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("official.safetensors");
        export_to(&best_model(), &to).unwrap();
        let (mut original, mut exported) =
            (WeightFile::open(&best_model()).unwrap(), WeightFile::open(&to).unwrap());
        assert_eq!(exported.metadata("format"), Some("pt"));
        let names: Vec<String> = exported.tensors().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names.len(), 417);
        for name in names {
            let stored = format!("state_dict/module.{name}");
            assert_eq!(exported.info(&name), original.info(&stored), "{name}");
            assert_eq!(exported.read(&name).unwrap(), original.read(&stored).unwrap(), "{name}");
        }
        // The export can be loaded into the network again.
        let model = recorded();
        load_model(&model, &to, None, &Strictness::default(), &EncoderRoot::default()).unwrap();
        assert!(export_to(&best_model(), &folder.path().join("x.pth")).is_err());
        let before = std::fs::read(&to).unwrap();
        for same in [
            to.clone(),
            folder.path().join("..").join(folder.path().file_name().unwrap()).join("official.safetensors"),
        ] {
            let error = export_to(&to, &same).unwrap_err().to_string();
            assert!(error.contains("this is what is read"), "{error}");
        }
        assert_eq!(std::fs::read(&to).unwrap(), before);
        let encoder = best_model().with_file_name("clip_mini.pt");
        assert!(
            export_to(&encoder, &to).unwrap_err().to_string().contains("no checkpoint of the whole network")
        );
    }
}
