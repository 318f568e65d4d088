/// The share of every patch that a letterboxed mask covers, `side * side` values, row-major.
///
/// - levels: mask values, 0 to 255, `size * size` of them
/// - size: side of the mask in pixels, a multiple of `side`
/// - side: number of patches along a side
pub(crate) fn patch_shares(levels: &[u8], size: usize, side: usize) -> Vec<f32> {
    let patch = size / side;
    let mut shares = vec![0.0; side * side];
    for (y, row) in levels.chunks_exact(size).enumerate() {
        for (x, &level) in row.iter().enumerate() {
            shares[y / patch * side + x / patch] += f32::from(level);
        }
    }
    let full = 255.0 * (patch * patch) as f32;
    shares.into_iter().map(|share| share / full).collect()
}
