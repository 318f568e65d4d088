//! Paints a scene: gradient background with clutter, textured objects, anti-aliased edges, sensor noise.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::scene::{Object, Scene, Texture, inside};

/// Supersampling factor per axis, for anti-aliased edges.
const SUBPIXELS: usize = 2;

/// Paints the scene as RGB bytes, row-major.
pub(super) fn paint(scene: &Scene, clutter: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut canvas = background(scene, clutter, rng);
    for object in &scene.objects {
        paint_object(object, scene, &mut canvas, rng);
    }
    canvas.iter().map(|&value| (value + rng.random_range(-5.0..5.0)).clamp(0.0, 255.0) as u8).collect()
}

fn muted(rng: &mut ChaCha8Rng) -> [f32; 3] {
    let grey: f32 = rng.random_range(95.0..185.0);
    [0; 3].map(|_| grey + rng.random_range(-18.0..18.0))
}

fn background(scene: &Scene, clutter: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let (w, h) = (scene.width, scene.height);
    let (from, to) = (muted(rng), muted(rng));
    let angle: f32 = rng.random_range(0.0..std::f32::consts::TAU);
    let (sin, cos) = angle.sin_cos();
    let mut canvas = Vec::with_capacity(w * h * 3);
    for y in 0..h {
        for x in 0..w {
            let along = (x as f32 / w as f32 - 0.5) * cos + (y as f32 / h as f32 - 0.5) * sin + 0.5;
            let along = along.clamp(0.0, 1.0);
            canvas.extend((0..3).map(|channel| from[channel] * (1.0 - along) + to[channel] * along));
        }
    }
    for _ in 0..clutter {
        let colour = muted(rng);
        let [mut x, mut y] = [rng.random_range(0.0..w as f32), rng.random_range(0.0..h as f32)];
        let direction: f32 = rng.random_range(0.0..std::f32::consts::TAU);
        for _ in 0..rng.random_range(3..40) {
            (x, y) = (x + direction.cos(), y + direction.sin());
            for (dx, dy) in [(0, 0), (1, 0), (0, 1)] {
                let (px, py) = (x as i64 + dx, y as i64 + dy);
                if px >= 0 && py >= 0 && px < w as i64 && py < h as i64 {
                    let start = (py as usize * w + px as usize) * 3;
                    canvas[start..start + 3].copy_from_slice(&colour);
                }
            }
        }
    }
    canvas
}

fn paint_object(object: &Object, scene: &Scene, canvas: &mut [f32], rng: &mut ChaCha8Rng) {
    let base =
        object.colour.rgb().map(|value| (f32::from(value) + rng.random_range(-14.0..14.0)).clamp(0.0, 255.0));
    let brightness = (base[0] + base[1] + base[2]) / 3.0;
    let shade = if brightness > 70.0 { 0.45 } else { 0.0 };
    let mark = base.map(|value| if shade > 0.0 { value * shade } else { value + 95.0 });
    let outlines = object.outlines();
    let (columns, rows) = object.bounds(scene.width, scene.height);
    let period = (object.radius * 0.7).max(6.0);
    for y in rows {
        for x in columns.clone() {
            let mut colour = [0.0; 3];
            let mut hits = 0.0;
            for sub in 0..SUBPIXELS * SUBPIXELS {
                let offset = |k: usize| (k as f64 + 0.5) / SUBPIXELS as f64;
                let point = [x as f64 + offset(sub % SUBPIXELS), y as f64 + offset(sub / SUBPIXELS)];
                if inside(&outlines, point) {
                    let from_centre = [point[0] - object.centre[0], point[1] - object.centre[1]];
                    let paint = if marked(object.texture, from_centre, period) { &mark } else { &base };
                    hits += 1.0;
                    for channel in 0..3 {
                        colour[channel] += paint[channel];
                    }
                }
            }
            let share = hits / (SUBPIXELS * SUBPIXELS) as f32;
            if hits > 0.0 {
                for channel in 0..3 {
                    let value = &mut canvas[(y * scene.width + x) * 3 + channel];
                    *value = *value * (1.0 - share) + colour[channel] / hits * share;
                }
            }
        }
    }
}

/// Whether a texture's mark (stripe or dot) covers a point, given relative to the object's centre.
fn marked(texture: Texture, [x, y]: [f64; 2], period: f64) -> bool {
    match texture {
        Texture::Plain => false,
        Texture::Striped => ((x + y) / (period * 1.2)).rem_euclid(1.0) < 0.45,
        Texture::Dotted => {
            let to_dot = |value: f64| (value / period).rem_euclid(1.0) - 0.5;
            to_dot(x).hypot(to_dot(y)) < 0.3
        }
    }
}
