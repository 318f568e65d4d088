//! `tccl`: target-centric contrastive learning, on the neck's aggregated map.

use tch::Tensor;
use tlm_losses::TcclConfig;
use tracing::trace_span;

use super::{Inputs, Loss, Setting};
use crate::config::LossConfig;

pub(super) struct Tccl;

const SETTINGS: &[Setting] = &[
    // Divisor inside the loss (quirk Q10).
    Setting {
        key: "tccl_divisor",
        default: 10.0,
        is_whole: false,
        allows: |value| value > 0.0,
        expected: "positive",
    },
];

impl Loss for Tccl {
    fn name(&self) -> &'static str {
        "tccl"
    }

    fn weight(&self) -> f64 {
        0.1
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn term(&self, of: &Inputs<'_>, cfg: &LossConfig) -> Option<Tensor> {
        let [positive, negative] = of.output.contrast.as_ref()?;
        let _span = trace_span!("tccl").entered();
        let tccl = tlm_losses::Tccl::new(TcclConfig { divisor: cfg.get("tccl_divisor") });
        let aggregated = &of.output.neck.aggregated;
        Some(tccl.loss(aggregated, positive, negative, &of.batch.valid, of.processes.shared()).loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_published_divisor() {
        assert_eq!(SETTINGS[0].default, TcclConfig::default().divisor);
    }
}
