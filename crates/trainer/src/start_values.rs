//! Start values that several models of a test share.

use std::sync::Mutex;

use talent::{ModelConfig, Talent};
use tch::{Device, Kind, Tensor};

/// Parameters and buffers of a model, drawn once. All threads of a test program share libtorch's RNG: a model that is drawn again
/// with the same seed has other values if another test draws meanwhile.
pub(crate) struct StartValues(Mutex<Vec<(String, Tensor)>>);

impl StartValues {
    pub(crate) fn drawn(cfg: &ModelConfig) -> Self {
        let model = Talent::seeded(cfg, Device::Cpu, Kind::Double, 1).unwrap();
        let entries = model.store().entries().into_iter().map(|(name, entry)| (name, entry.tensor));
        Self(Mutex::new(entries.collect()))
    }

    /// Overwrites the parameters and buffers of a model of the same config.
    pub(crate) fn give(&self, model: &Talent) {
        for (name, value) in self.0.lock().unwrap().iter() {
            model.store().assign(name, value).unwrap();
        }
    }

    /// A model of the same config with these values.
    pub(crate) fn model(&self, cfg: &ModelConfig, kind: Kind) -> Talent {
        let model = Talent::new(cfg, Device::Cpu, kind).unwrap();
        self.give(&model);
        model
    }
}
