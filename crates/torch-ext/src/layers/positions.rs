use tch::{Device, Kind, Tensor};

/// Sinusoidal positional embedding of a sequence, `[1, length, width]`: sine and cosine of `k w_i` interleaved, with
/// `w_i = exp(-2 i ln(10000) / width)`. Computed in float32.
pub fn sequence_positions(width: i64, length: i64, (kind, device): (Kind, Device)) -> Tensor {
    // Computed on the device: a copy from the host would synchronise with all queued work.
    let single = (Kind::Float, device);
    let exponent = Tensor::arange(width / 2, single) * 2.0 * (-(10000.0_f64.ln()) / width as f64);
    let steps = Tensor::arange(length, single).unsqueeze(1) * exponent.exp();
    let codes = Tensor::stack(&[steps.sin(), steps.cos()], -1); // length, width/2, 2
    codes.reshape([1, length, width]).to_kind(kind)
}

/// Sinusoidal positional embedding of a grid, `[1, height * width, channels]`, row-major. The first half of the channels
/// encodes the column, the second half the row. `channels` must be a multiple of 4.
pub fn grid_positions(channels: i64, height: i64, width: i64, place: (Kind, Device)) -> Tensor {
    let half = channels / 2;
    let columns = sequence_positions(half, width, place).expand([height, -1, -1], false);
    let rows = sequence_positions(half, height, place).transpose(0, 1).expand([-1, width, -1], false);
    Tensor::cat(&[columns, rows], 2).reshape([1, height * width, channels])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_before_rows() {
        let codes = grid_positions(4, 2, 3, (Kind::Double, Device::Cpu));
        assert_eq!(codes.size(), [1, 6, 4]);
        // Position 5 is row 1, column 2. There is one frequency (1) per axis.
        let values = Vec::<f64>::try_from(codes.select(1, 5).view([-1])).unwrap();
        let expected = [2.0_f64.sin(), 2.0_f64.cos(), 1.0_f64.sin(), 1.0_f64.cos()];
        assert!(values.iter().zip(expected).all(|(value, want)| (value - want).abs() < 1e-6), "{values:?}");
    }
}
