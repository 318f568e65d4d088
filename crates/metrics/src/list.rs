use crate::metric::Metric;
use crate::{boxes, nta, segmentation};

/// All metrics, in the order of tables. Adding one takes its own file and a line here.
pub const METRICS: [Metric; 11] = [
    segmentation::MIOU,
    segmentation::OIOU,
    segmentation::PR50,
    segmentation::PR60,
    segmentation::PR70,
    segmentation::PR80,
    segmentation::PR90,
    boxes::REC,
    nta::MASS,
    nta::RATE,
    nta::IDENTITY_ERROR,
];
