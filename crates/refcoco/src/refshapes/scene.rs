//! Scenes: the objects, their placement, and the visible part of each.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::Settings;
use crate::mask::Mask;

macro_rules! attribute {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name { $($variant),+ }

        impl $name {
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub(super) fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

attribute! {
    /// The category.
    Shape { Circle = "circle", Square = "square", Triangle = "triangle", Star = "star", Cross = "cross", Hexagon = "hexagon", Ring = "ring" }
}
attribute! {
    /// The colour.
    Colour { Red = "red", Green = "green", Blue = "blue", Yellow = "yellow", Orange = "orange", Purple = "purple", White = "white", Black = "black" }
}
attribute! {
    /// The surface.
    Texture { Plain = "plain", Striped = "striped", Dotted = "dotted" }
}
attribute! {
    /// The size class; classes do not overlap.
    Size { Small = "small", Big = "big" }
}

impl Colour {
    pub(super) fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [208, 30, 36],
            Self::Green => [30, 148, 48],
            Self::Blue => [34, 72, 206],
            Self::Yellow => [240, 216, 40],
            Self::Orange => [242, 132, 24],
            Self::Purple => [134, 44, 168],
            Self::White => [244, 244, 244],
            Self::Black => [22, 22, 24],
        }
    }
}

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) shape: Shape,
    pub(super) colour: Colour,
    pub(super) texture: Texture,
    pub(super) size: Size,
    /// Centre in pixels.
    pub(super) centre: [f64; 2],
    /// Distance from the centre to the outermost point, in pixels.
    pub(super) radius: f64,
    /// Rotation in radians.
    pub(super) angle: f64,
    /// Mask of the visible part.
    pub(super) visible: Mask,
    /// Centroid of the visible part.
    pub(super) seen_at: [f64; 2],
    /// Number of visible pixels.
    pub(super) area: f64,
    /// Whether another object hides part of it.
    pub(super) occluded: bool,
}

/// A scene; later objects lie in front of earlier ones.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) objects: Vec<Object>,
}

const SIZES: [(usize, usize); 7] =
    [(160, 120), (120, 160), (144, 144), (176, 112), (112, 168), (160, 144), (192, 128)];

/// Whether a pair of colour and shape is held out by [`Settings::shifted_tests`]: one shape per colour.
fn is_held_out(colour: Colour, shape: Shape) -> bool {
    (colour as usize + shape as usize).is_multiple_of(Shape::ALL.len())
}

/// Minimum and maximum number of objects, and of those of the main category.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowding {
    pub(super) objects: (usize, usize),
    pub(super) same_category: (usize, usize),
}

impl Scene {
    /// Draws a scene. Starts again until every object could be placed.
    pub(super) fn random(rng: &mut ChaCha8Rng, settings: &Settings, crowding: Crowding) -> Self {
        loop {
            let &(width, height) = SIZES.choose(rng).unwrap_or(&SIZES[0]);
            let mut scene = Self { width, height, objects: Vec::new() };
            if scene.place(rng, settings, crowding) {
                return scene;
            }
        }
    }

    fn place(&mut self, rng: &mut ChaCha8Rng, settings: &Settings, crowding: Crowding) -> bool {
        // The smaller of two draws, so that crowded scenes are rarer.
        let objects = crowding.objects.0..=crowding.objects.1;
        let n = rng.random_range(objects.clone()).min(rng.random_range(objects));
        let n_colours = rng.random_range(settings.max_colours.min(3)..=settings.max_colours);
        let palette: Vec<Colour> = Colour::ALL.choose_multiple(rng, n_colours).copied().collect();
        for shape in categories(rng, n, crowding.same_category) {
            let size = *Size::ALL.choose(rng).unwrap_or(&Size::Small);
            let share = match size {
                Size::Small => rng.random_range(0.030..0.045),
                Size::Big => rng.random_range(0.070..0.105),
            };
            let area = share * settings.object_scale * (self.width * self.height) as f64;
            let radius = (area / unit_area(shape)).sqrt();
            let angle = rng.random_range(-0.25..0.25);
            let textures = if rng.random_bool(0.3) { &Texture::ALL[..1] } else { Texture::ALL };
            let texture = *textures.choose(rng).unwrap_or(&Texture::Plain);
            let colour = *palette.choose(rng).unwrap_or(&Colour::Red);
            let Some(centre) = self.free_place(rng, radius, settings.occlusion) else { return false };
            let visible = Mask::zeros(self.width, self.height);
            self.objects.push(Object {
                shape,
                colour,
                texture,
                size,
                centre,
                radius,
                angle,
                visible,
                seen_at: centre,
                area: 0.0,
                occluded: false,
            });
        }
        self.objects.shuffle(rng);
        self.compute_visibility(settings.occlusion)
    }

    /// Draws a centre inside the image where the enclosing circles overlap little; `None` after 40 attempts.
    fn free_place(&self, rng: &mut ChaCha8Rng, radius: f64, occlusion: f64) -> Option<[f64; 2]> {
        let (w, h) = (self.width as f64, self.height as f64);
        let inset = radius * 0.95;
        if inset * 2.0 >= w.min(h) {
            return None;
        }
        for _ in 0..40 {
            let centre = [rng.random_range(inset..w - inset), rng.random_range(inset..h - inset)];
            let clear = self.objects.iter().all(|other| {
                let distance = (centre[0] - other.centre[0]).hypot(centre[1] - other.centre[1]);
                distance > (radius + other.radius) * (1.0 - 0.8 * occlusion)
            });
            if clear {
                return Some(centre);
            }
        }
        None
    }

    /// Computes the visible part of each object; false if too little of one is visible.
    fn compute_visibility(&mut self, occlusion: f64) -> bool {
        let mut owner = vec![usize::MAX; self.width * self.height];
        let mut whole = vec![0_usize; self.objects.len()];
        for (index, object) in self.objects.iter().enumerate() {
            object.cover(self.width, self.height, |pixel| {
                owner[pixel] = index;
                whole[index] += 1;
            });
        }
        for (index, object) in self.objects.iter_mut().enumerate() {
            let (mut area, mut sum) = (0.0, [0.0; 2]);
            for (pixel, _) in owner.iter().enumerate().filter(|(_, owner)| **owner == index) {
                object.visible.data[pixel] = 1;
                area += 1.0;
                sum[0] += (pixel % self.width) as f64;
                sum[1] += (pixel / self.width) as f64;
            }
            if area < (1.0 - occlusion) * whole[index] as f64 || area < 16.0 {
                return false;
            }
            object.area = area;
            object.occluded = area < whole[index] as f64;
            object.seen_at = sum.map(|sum| sum / area);
        }
        true
    }
}

/// The shapes of a scene: one category several times, often a second one twice, the rest at random.
fn categories(rng: &mut ChaCha8Rng, n: usize, (at_least, at_most): (usize, usize)) -> Vec<Shape> {
    let mut order: Vec<Shape> = Shape::ALL.to_vec();
    order.shuffle(rng);
    let n_main = rng.random_range(at_least.min(n)..=at_most.min(n));
    let mut shapes = vec![order[0]; n_main];
    if n - n_main >= 2 && rng.random_bool(0.4) {
        shapes.extend([order[1]; 2]);
    }
    while shapes.len() < n {
        shapes.push(*order[1..].choose(rng).unwrap_or(&order[0]));
    }
    shapes
}

impl Object {
    /// Whether the object has a pair of colour and shape that [`Settings::shifted_tests`] holds out.
    pub(super) fn is_held_out(&self) -> bool {
        is_held_out(self.colour, self.shape)
    }

    /// Outlines in pixels, filled by the even-odd rule.
    pub(super) fn outlines(&self) -> Vec<Vec<[f64; 2]>> {
        let (sin, cos) = self.angle.sin_cos();
        let place = |[x, y]: [f64; 2]| {
            [
                self.centre[0] + self.radius * (x * cos - y * sin),
                self.centre[1] + self.radius * (x * sin + y * cos),
            ]
        };
        unit_outlines(self.shape)
            .into_iter()
            .map(|outline| outline.into_iter().map(place).collect())
            .collect()
    }

    /// Calls `hit` with the index of every pixel whose centre the object covers.
    pub(super) fn cover(&self, width: usize, height: usize, mut hit: impl FnMut(usize)) {
        let outlines = self.outlines();
        let (columns, rows) = self.bounds(width, height);
        for y in rows {
            for x in columns.clone() {
                if inside(&outlines, [x as f64 + 0.5, y as f64 + 0.5]) {
                    hit(y * width + x);
                }
            }
        }
    }

    /// Columns and rows of the image that the object can reach.
    pub(super) fn bounds(
        &self,
        width: usize,
        height: usize,
    ) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let span = |centre: f64, limit: usize| {
            let low = (centre - self.radius - 1.0).max(0.0) as usize;
            low..((centre + self.radius + 2.0).max(0.0) as usize).min(limit)
        };
        (span(self.centre[0], width), span(self.centre[1], height))
    }
}

/// Whether a point is inside, by the even-odd rule.
pub(super) fn inside(outlines: &[Vec<[f64; 2]>], [x, y]: [f64; 2]) -> bool {
    let mut odd = false;
    for outline in outlines {
        for (index, &[x1, y1]) in outline.iter().enumerate() {
            let [x0, y0] = outline[(index + outline.len() - 1) % outline.len()];
            if (y0 > y) != (y1 > y) && x < (x1 - x0) * (y - y0) / (y1 - y0) + x0 {
                odd = !odd;
            }
        }
    }
    odd
}

fn regular(n: usize, radius: f64, start: f64) -> Vec<[f64; 2]> {
    let at = |index: usize| start + std::f64::consts::TAU * index as f64 / n as f64;
    (0..n).map(|index| [radius * at(index).cos(), radius * at(index).sin()]).collect()
}

/// The shape's outlines in the unit circle, y down.
fn unit_outlines(shape: Shape) -> Vec<Vec<[f64; 2]>> {
    use std::f64::consts::{FRAC_PI_2, FRAC_PI_4};
    match shape {
        Shape::Circle => vec![regular(40, 1.0, 0.0)],
        Shape::Ring => vec![regular(40, 1.0, 0.0), regular(40, 0.5, 0.0)],
        Shape::Square => vec![regular(4, 1.0, FRAC_PI_4)],
        Shape::Triangle => vec![regular(3, 1.0, -FRAC_PI_2)],
        Shape::Hexagon => vec![regular(6, 1.0, 0.0)],
        Shape::Star => {
            let (outer, inner) =
                (regular(5, 1.0, -FRAC_PI_2), regular(5, 0.45, -FRAC_PI_2 + std::f64::consts::PI / 5.0));
            vec![outer.into_iter().zip(inner).flat_map(|(far, near)| [far, near]).collect()]
        }
        Shape::Cross => {
            let (a, b) = (0.31, 0.95);
            let corners = [
                [a, b],
                [a, a],
                [b, a],
                [b, -a],
                [a, -a],
                [a, -b],
                [-a, -b],
                [-a, -a],
                [-b, -a],
                [-b, a],
                [-a, a],
                [-a, b],
            ];
            vec![corners.to_vec()]
        }
    }
}

/// Area of the shape in the unit circle.
fn unit_area(shape: Shape) -> f64 {
    let polygon = |outline: &Vec<[f64; 2]>| {
        let next = outline.iter().cycle().skip(1);
        outline.iter().zip(next).map(|(p, q)| p[0] * q[1] - q[0] * p[1]).sum::<f64>().abs() / 2.0
    };
    let outlines = unit_outlines(shape);
    polygon(&outlines[0]) - outlines.get(1).map_or(0.0, polygon)
}
