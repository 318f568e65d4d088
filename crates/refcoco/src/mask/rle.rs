//! COCO RLE: columns from left to right, each from top to bottom, background first.

use super::Mask;
use crate::error::MaskError;

pub(super) fn from_counts(width: usize, height: usize, counts: &[u64]) -> Result<Mask, MaskError> {
    let total = (width as u64) * (height as u64);
    let sum = counts.iter().try_fold(0_u64, |sum, &count| sum.checked_add(count));
    if sum != Some(total) {
        let sum = sum.map_or_else(|| "overflow".to_owned(), |sum| sum.to_string());
        return Err(MaskError::Rle(format!("the runs add up to {sum}, not to {height} x {width} = {total}")));
    }
    let mut mask = Mask::zeros(width, height);
    let mut position = 0;
    for (index, &count) in counts.iter().enumerate() {
        let end = position + count as usize;
        if index % 2 == 1 {
            for pixel in position..end {
                mask.data[pixel % height * width + pixel / height] = 1;
            }
        }
        position = end;
    }
    Ok(mask)
}

pub(super) fn to_counts(mask: &Mask) -> Vec<u64> {
    let mut counts = Vec::new();
    let (mut current, mut run) = (0, 0);
    for x in 0..mask.width {
        for y in 0..mask.height {
            let pixel = mask.data[y * mask.width + x];
            if pixel != current {
                counts.push(run);
                (current, run) = (pixel, 0);
            }
            run += 1;
        }
    }
    counts.push(run);
    counts
}

/// Decodes the compressed string. Each run is a signed number in groups of five bits, low group first, one character per group
/// with offset 48. Bit 5 says that more groups follow. From the fourth run on, the number is the difference to the run two
/// places before.
pub(super) fn parse_string(text: &str) -> Result<Vec<u64>, MaskError> {
    let mut counts: Vec<i64> = Vec::new();
    let mut bytes = text.bytes();
    while let Some(first) = bytes.next() {
        let (mut value, mut shift, mut byte) = (0_i64, 0, first);
        loop {
            if !(48..112).contains(&byte) {
                return Err(MaskError::Rle(format!("character 0x{byte:02x} is outside the alphabet")));
            }
            if shift > 55 {
                return Err(MaskError::Rle("a run length beyond 60 bits".into()));
            }
            let group = i64::from(byte - 48);
            value |= (group & 31) << shift;
            shift += 5;
            if group & 32 == 0 {
                if group & 16 != 0 {
                    value |= -1 << shift;
                }
                break;
            }
            byte =
                bytes.next().ok_or_else(|| MaskError::Rle("the string ends inside a run length".into()))?;
        }
        if counts.len() > 2 {
            let base = counts[counts.len() - 2];
            value = value.checked_add(base).ok_or_else(|| MaskError::Rle("a run length overflows".into()))?;
        }
        counts.push(value);
    }
    let unsigned =
        |count: i64| u64::try_from(count).map_err(|_| MaskError::Rle(format!("negative run {count}")));
    counts.into_iter().map(unsigned).collect()
}

pub(super) fn write_string(counts: &[u64]) -> String {
    let mut text = String::new();
    for (index, &count) in counts.iter().enumerate() {
        let mut value = count as i64;
        if index > 2 {
            value -= counts[index - 2] as i64;
        }
        loop {
            let group = value & 31;
            value >>= 5;
            let done = if group & 16 != 0 { value == -1 } else { value == 0 };
            let byte = if done { group } else { group | 32 };
            text.push(char::from(byte as u8 + 48));
            if done {
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_first() {
        // 3 wide, 2 high; runs 1 background, 2 foreground, 3 background: bottom left and top middle.
        let mask = from_counts(3, 2, &[1, 2, 3]).unwrap();
        assert_eq!(mask.data, [0, 1, 0, 1, 0, 0]);
        assert_eq!(to_counts(&mask), [1, 2, 3]);
    }

    #[test]
    fn strings_round_trip() {
        for counts in [vec![6_u64], vec![0, 6], vec![1000, 31, 32, 5, 1_000_000, 1, 77]] {
            assert_eq!(parse_string(&write_string(&counts)).unwrap(), counts);
        }
    }

    #[test]
    fn bad_runs_are_refused() {
        assert!(from_counts(3, 2, &[1, 2]).is_err());
        assert!(from_counts(3, 2, &[u64::MAX, 7]).is_err());
        assert!(from_counts(3, 2, &[]).is_err());
        assert!(parse_string("o").is_err());
        assert!(parse_string("\u{7f}").is_err());
        assert!(parse_string("oooooooooooooooo0").is_err());
    }
}
