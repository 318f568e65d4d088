use serde::Serialize;

/// One referring expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expression {
    /// Id of the expression, unique in its refs file.
    pub sent_id: i64,
    /// Normalised text, which models are trained on.
    pub sent: String,
    /// Text as typed.
    pub raw: String,
    /// Style of the expression, where the data set says it: RefShapes has `location`, `appearance` and `relational`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavour: Option<String>,
}

/// A referent and its expressions: one annotated object in RefCOCO and similar sets; none, one or several in gRefCOCO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ref {
    /// Id of the ref, unique in its refs file.
    pub ref_id: i64,
    /// Ids of the target objects' annotations in `instances.json`.
    pub ann_ids: Vec<i64>,
    /// Id of the image in `instances.json`.
    pub image_id: i64,
    /// Category ids of the target objects, as in the file: one per object, or each category once.
    pub category_ids: Vec<i64>,
    /// `train`, `val`, `test`, `testA`, `testB`, or another name from the file.
    pub split: String,
    /// Expressions; may be empty in a damaged file. A ref without expressions is never sampled.
    pub expressions: Vec<Expression>,
}

impl Ref {
    /// Whether the two refs have a target in common.
    pub fn shares_target(&self, other: &Self) -> bool {
        self.ann_ids.iter().any(|id| other.ann_ids.contains(id))
    }
}

/// Record of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Id of the image.
    pub id: i64,
    /// File name inside the image folder.
    pub file_name: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// An annotated object.
#[derive(Debug, Clone)]
pub struct Annotation {
    /// Id of the annotation.
    pub id: i64,
    /// Id of the image.
    pub image_id: i64,
    /// Id of the category.
    pub category_id: i64,
    /// Whether it marks a crowd rather than one object.
    pub is_crowd: bool,
    /// Segmentation as in the file, decoded when a mask is requested. In own data it may be a JSON string: the path of a PNG
    /// file.
    pub segmentation: Box<serde_json::value::RawValue>,
}
