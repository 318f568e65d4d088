//! Frozen encoders that a checkpoint refers to by file name and SHA-256 instead of storing them.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use talent::Talent;
use talent::weights::{Encoder, Strictness, load_encoder};
use torch_ext::Entry;

use super::file::hex;

/// Files of the encoders that the checkpoint does not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Encoders {
    /// The image encoder's file, if the checkpoint does not hold it.
    pub(crate) image: Option<EncoderFile>,
    /// The text encoder's file, if the checkpoint does not hold it.
    pub(crate) text: Option<EncoderFile>,
}

/// A file, or a folder of files, with frozen weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EncoderFile {
    /// Path as given in the config.
    pub(crate) path: String,
    /// SHA-256 of the file; for a folder, SHA-256 of the list of its files' checksums and names.
    pub(crate) sha256: String,
}

/// Where to look for encoder files that have been moved.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct EncoderRoot {
    /// Folder with the encoder files that the checkpoint refers to, if they have been moved
    #[arg(long, value_name = "DIR")]
    encoder_root: Option<PathBuf>,
}

impl EncoderRoot {
    /// Path of an encoder file that a checkpoint refers to, in the encoder root if one is given.
    pub(crate) fn find(&self, path: &str) -> PathBuf {
        match (&self.encoder_root, Path::new(path).file_name()) {
            (Some(root), Some(name)) => root.join(name),
            _ => PathBuf::from(path),
        }
    }
}

impl EncoderFile {
    /// Computes the checksum of a file or folder.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn of(path: &str) -> Result<Self> {
        Ok(Self { path: path.to_owned(), sha256: sha256(Path::new(path))? })
    }
}

impl Encoders {
    /// Whether one of these files holds a parameter. What trains is not that of the file any more.
    pub(crate) fn hold(&self, entry: &Entry) -> bool {
        let of = |encoder: Encoder| encoder.group().name == entry.group.name && !entry.tensor.requires_grad();
        (of(Encoder::Image) && self.image.is_some()) || (of(Encoder::Text) && self.text.is_some())
    }

    /// Loads a network's encoders from the files.
    ///
    /// # Errors
    /// When a file is missing or is not the one that the checkpoint was made with.
    pub(crate) fn load(&self, model: &Talent, root: &EncoderRoot) -> Result<()> {
        for (encoder, file) in [(Encoder::Image, &self.image), (Encoder::Text, &self.text)] {
            let Some(file) = file else { continue };
            let path = root.find(&file.path);
            ensure!(
                path.exists(),
                "it needs the encoder weights {}, which are not there; say where they are with --encoder-root DIR",
                path.display()
            );
            let found = sha256(&path)?;
            if found != file.sha256 {
                bail!(
                    "it was made with encoder weights of SHA-256 {}, but {} has {found}",
                    file.sha256,
                    path.display()
                );
            }
            load_encoder(model, encoder, &path, &Strictness::default())?;
        }
        Ok(())
    }
}

/// SHA-256 of a file, or of all files of a folder, in hex.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    if path.is_dir() {
        let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.is_file());
        files.sort();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            hasher.update(format!("{}  {name}\n", sha256(&file)?));
        }
    } else {
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        std::io::copy(&mut file, &mut hasher).with_context(|| path.display().to_string())?;
    }
    Ok(hex(hasher))
}
