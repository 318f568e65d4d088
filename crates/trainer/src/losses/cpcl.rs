//! `cpcl`: contextual pairwise consistency learning, on the neck's three levels.

use tch::Tensor;
use tlm_losses::CpclConfig;
use tracing::trace_span;

use super::{Inputs, Loss, Setting};
use crate::config::LossConfig;

pub(super) struct Cpcl;

const SETTINGS: &[Setting] = &[
    // Text affinity above which two positions count as consistent.
    Setting {
        key: "cpcl_threshold",
        default: 0.7,
        is_whole: false,
        allows: |value| (0.5..1.0).contains(&value),
        expected: "at least 0.5 and below 1; for more than one partner a position, see cpcl_top_k",
    },
    // Temperature that divides the cosines. Values below the published 1 increase the loss's gradient (quirk Q9).
    Setting {
        key: "cpcl_temperature",
        default: 1.0,
        is_whole: false,
        allows: |value| value > 0.0,
        expected: "positive",
    },
    // Number of partners of every position, used instead of the threshold; 0 uses the threshold.
    Setting {
        key: "cpcl_top_k",
        default: 0.0,
        is_whole: true,
        allows: |value| value >= 0.0,
        expected: "0, for the threshold, or a number of partners",
    },
];

impl Loss for Cpcl {
    fn name(&self) -> &'static str {
        "cpcl"
    }

    fn weight(&self) -> f64 {
        0.1
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let _span = trace_span!("cpcl").entered();
        let top_k = cfg.get("cpcl_top_k") as i64;
        let cpcl = tlm_losses::Cpcl::new(CpclConfig {
            threshold: cfg.get("cpcl_threshold"),
            temperature: cfg.get("cpcl_temperature"),
            top_k: (top_k > 0).then_some(top_k),
        });
        let neck = &of.output.neck;
        Some(cpcl.mean_loss(&neck.fused, &neck.sentence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_published_loss() {
        let CpclConfig { threshold, temperature, top_k } = CpclConfig::default();
        let published = [threshold, temperature, top_k.unwrap_or(0) as f64];
        assert_eq!(SETTINGS.iter().map(|setting| setting.default).collect::<Vec<_>>(), published);
    }
}
