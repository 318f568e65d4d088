//! Finds and reads the files of a data set.

use std::path::{Path, PathBuf};

use crate::annotation::Ref;
use crate::descriptor::{AnnotationFormat, Descriptor};
use crate::error::{Error, Result};
use crate::image_source::ImageSource;
use crate::reader::{
    Instances, read_arefcoco, read_d3, read_grefs, read_instances, read_own, read_reasonseg, read_refs,
    read_refsegrs,
};

/// What the files of a data set hold, and where they are.
pub(crate) struct DatasetFiles {
    pub(crate) refs: Vec<Ref>,
    pub(crate) instances: Instances,
    pub(crate) images: ImageSource,
    pub(crate) refs_path: PathBuf,
    /// The file that holds the annotations; the refs' one for formats that have one file for both.
    pub(crate) instances_path: PathBuf,
}

impl DatasetFiles {
    /// # Errors
    /// Names the missing file or folder, or what is wrong inside a file.
    pub(crate) fn read(descriptor: &Descriptor, data_root: &Path) -> Result<Self> {
        let layout = |what: String| Error::Layout {
            dataset: descriptor.name.clone(),
            what,
            root: data_root.to_path_buf(),
            advice: "see datasets/README.md for the layout, or point --data-root at the folder that has it"
                .into(),
        };
        let folder = descriptor.folder_below(data_root);
        let refs_path = folder.join(&descriptor.refs);
        let instances_path = match descriptor.format {
            AnnotationFormat::Refer | AnnotationFormat::Grefcoco => folder.join("instances.json"),
            _ => refs_path.clone(),
        };
        let is_folder = descriptor.refs.is_empty();
        for path in [&refs_path, &instances_path] {
            if !(path.is_file() || is_folder && path.is_dir()) {
                let shown = path.strip_prefix(data_root).unwrap_or(path).display();
                return Err(layout(format!("{} `{shown}`", if is_folder { "folder" } else { "file" })));
            }
        }
        let images = match descriptor.format.has_images_beside() {
            true if is_folder => ImageSource::folder(&folder),
            true => ImageSource::folder(refs_path.parent().unwrap_or(Path::new(""))),
            false => ImageSource::find(data_root, &descriptor.images)
                .ok_or_else(|| layout(format!("images (`{}`)", descriptor.images.join("`, `"))))??,
        };
        let (mut refs, instances) = match descriptor.format {
            AnnotationFormat::Refer => (read_refs(&refs_path)?, read_instances(&instances_path)?),
            AnnotationFormat::Grefcoco => (read_grefs(&refs_path)?, read_instances(&instances_path)?),
            AnnotationFormat::Own => read_own(&refs_path)?,
            AnnotationFormat::Refsegrs => read_refsegrs(&folder)?,
            AnnotationFormat::Reasonseg => read_reasonseg(&folder)?,
            AnnotationFormat::Arefcoco => read_arefcoco(&refs_path, data_root)?,
            AnnotationFormat::D3 => read_d3(&folder)?,
        };
        fill_categories(&mut refs, &instances);
        Ok(Self { refs, instances, images, refs_path, instances_path })
    }
}

/// Takes the categories of refs that name none from their annotations.
fn fill_categories(refs: &mut [Ref], instances: &Instances) {
    for reference in refs.iter_mut().filter(|reference| reference.category_ids.is_empty()) {
        let annotations = reference.ann_ids.iter().filter_map(|id| instances.annotations.get(id));
        reference.category_ids = annotations.map(|annotation| annotation.category_id).collect();
    }
}
