//! Refuses sizes that do not fit into this machine's memory, before anything is allocated: a failed allocation inside a library
//! ends the process without a message.

use anyhow::{Result, ensure};
use talent::{ModelConfig, least_activations, least_decoder, least_parameters};

/// Bytes of a float32 value.
const FLOAT: f64 = 4.0;
const GIB: f64 = (1_u64 << 30) as f64;

/// Refuses a network and batch that do not fit into memory.
///
/// - n_samples: samples in one forward pass
///
/// # Errors
/// When parameters, input images and the widest tensor of one block take more memory than this machine has; the message gives
/// the sizes.
pub(crate) fn ensure_fits(cfg: &ModelConfig, n_samples: usize) -> Result<()> {
    let Some(available) = machine_bytes() else { return Ok(()) };
    let parameters = least_parameters(cfg);
    let activations = least_activations(cfg, n_samples);
    let total = FLOAT * parameters.total() + activations.images + activations.block;
    ensure!(
        total <= available,
        "this takes at least {:.1} GiB of memory, and this machine has {:.1}: {:.1} GiB for the parameters \
         (model.image.depth {}, width {}; model.text.depth {}, width {}, vocabulary {}), {:.1} GiB for the images (samples at \
         once {n_samples}, model.input_size {}), {:.1} GiB for the tensors of one block",
        total / GIB,
        available / GIB,
        FLOAT * parameters.total() / GIB,
        cfg.image.depth,
        cfg.image.width,
        cfg.text.depth,
        cfg.text.width,
        cfg.text.vocabulary,
        activations.images / GIB,
        cfg.input_size,
        activations.block / GIB,
    );
    Ok(())
}

/// Refuses more sentences about one image than fit into this machine's memory.
///
/// # Errors
/// When they do not fit; the message gives their number.
pub(crate) fn ensure_sentences_fit(cfg: &ModelConfig, n: usize) -> Result<()> {
    let least = least_decoder(cfg, n);
    ensure!(
        machine_bytes().is_none_or(|available| least <= available),
        "{n} sentences at once take at least {:.1} GiB of memory, more than this machine has",
        least / GIB
    );
    Ok(())
}

/// Bytes of memory and swap of this machine, or the limit of its control group if that is lower; `None` if unknown.
fn machine_bytes() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<f64> {
        info.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB").parse().ok()
    };
    let machine = 1024.0 * (kib("MemTotal:")? + kib("SwapTotal:").unwrap_or(0.0));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<f64>().ok());
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused_and_the_published_ones_are_not() {
        ensure_fits(&ModelConfig::large(), 1).unwrap();
        let base = ModelConfig::base();
        let refused = |change: &dyn Fn(&mut ModelConfig), n| {
            let mut cfg = base.clone();
            change(&mut cfg);
            format!("{:#}", ensure_fits(&cfg, n).unwrap_err())
        };
        assert!(refused(&|cfg| cfg.input_size = 100_002, 1).contains("model.input_size 100002"));
        assert!(refused(&|cfg| cfg.image.depth = 1_000_000_000, 1).contains("model.image.depth 1000000000"));
        assert!(refused(&|cfg| cfg.text.context = i64::MAX, 1).contains("GiB"));
        assert!(refused(&|_| {}, usize::MAX).contains("samples at once"));
    }
}
