use tch::{Device, Kind, Tensor};

/// Initialisation of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// A constant.
    Const(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
    /// [`Init::Uniform`], rounded to float16 precision (the official text adapters are created in half precision).
    UniformHalf(f64),
}

impl Init {
    /// Draws an initial value. Random numbers are drawn in float32 on the CPU, so that a seed gives the same values on every
    /// device and in every precision.
    pub(crate) fn tensor(self, shape: &[i64], kind: Kind, device: Device) -> Tensor {
        let host = (Kind::Float, Device::Cpu);
        let tensor = match self {
            Self::Const(value) => Tensor::full(shape, value, host),
            Self::Normal(deviation) => Tensor::randn(shape, host) * deviation,
            Self::Uniform(bound) => (Tensor::rand(shape, host) * 2.0 - 1.0) * bound,
            Self::UniformHalf(bound) => {
                ((Tensor::rand(shape, host) * 2.0 - 1.0) * bound).to_kind(Kind::Half).to_kind(Kind::Float)
            }
        };
        tensor.to_kind(kind).to_device(device)
    }
}
