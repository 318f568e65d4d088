use serde::Serialize;

/// One referring expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expression {
    /// Its number, unique in its refs file.
    pub sent_id: i64,
    /// The normalised text, which models are trained on.
    pub sent: String,
    /// The text as typed.
    pub raw: String,
}

/// What expressions refer to: one annotated object in RefCOCO and its kin, none or several in gRefCOCO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ref {
    /// Its number, unique in its refs file.
    pub ref_id: i64,
    /// The target objects' annotations in `instances.json`.
    pub ann_ids: Vec<i64>,
    /// The image's record in `instances.json`.
    pub image_id: i64,
    /// The target objects' categories, as the file has them: one each, or each once.
    pub category_ids: Vec<i64>,
    /// `train`, `val`, `test`, `testA`, `testB`, or whatever the file says.
    pub split: String,
    /// May be empty in a damaged file; such a ref is never sampled.
    pub expressions: Vec<Expression>,
}

impl Ref {
    /// Whether some object is a target of both.
    pub fn shares_target(&self, other: &Self) -> bool {
        self.ann_ids.iter().any(|id| other.ann_ids.contains(id))
    }
}

/// An image's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its number.
    pub id: i64,
    /// The file's name inside the image folder.
    pub file_name: String,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
}

/// An annotated object.
#[derive(Debug, Clone)]
pub struct Annotation {
    /// Its number.
    pub id: i64,
    /// The image it is in.
    pub image_id: i64,
    /// Its category.
    pub category_id: i64,
    /// Whether it marks a crowd rather than one object.
    pub is_crowd: bool,
    /// The segmentation as it stands in the file; decoded when a mask is asked for. In own data it may be text: the
    /// path of a PNG file.
    pub segmentation: Box<serde_json::value::RawValue>,
}
