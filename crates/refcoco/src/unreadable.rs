//! Refs that an evaluation leaves out on request, because their image or mask cannot be read.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::annotation::Expression;
use crate::dataset::Dataset;

/// What an evaluation leaves out, see [`Dataset::leave_out_unreadable`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Refs, by index in [`Dataset::refs`], each with the reason.
    pub refs: BTreeMap<usize, String>,
    /// Number of expressions left out: those of these refs, and those without text of the other refs.
    pub n_expressions: usize,
    /// Number of expressions that stay.
    pub n_left: usize,
}

impl Dataset {
    /// Reads the image and the target of every ref of some splits, and leaves those that cannot be read out of
    /// [`evaluation::queries`](crate::evaluation::queries) from now on, with expressions that have no text. Otherwise one such
    /// ref makes it impossible to evaluate its split.
    pub fn leave_out_unreadable(&mut self, splits: &[String]) -> &LeftOut {
        let mut by_image: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (index, reference) in self.refs.iter().enumerate() {
            if splits.contains(&reference.split) {
                by_image.entry(reference.image_id).or_default().push(index);
            }
        }
        let unreadable = |(image_id, refs): (i64, Vec<usize>)| -> Vec<(usize, String)> {
            // Each image is decoded once.
            let image = self.image(image_id).err().map(|error| error.to_string());
            let why = |index: usize| {
                image.clone().or_else(|| Some(self.target(&self.refs[index]).err()?.to_string()))
            };
            refs.into_iter().filter_map(|index| Some((index, why(index)?))).collect()
        };
        let refs: BTreeMap<usize, String> = by_image.into_par_iter().flat_map_iter(unreadable).collect();
        let mut left_out = LeftOut { refs, ..LeftOut::default() };
        for (index, reference) in self.refs.iter().enumerate() {
            if splits.contains(&reference.split) {
                let n_left = match left_out.refs.contains_key(&index) {
                    true => 0,
                    false => reference.expressions.iter().filter(|expression| has_text(expression)).count(),
                };
                left_out.n_left += n_left;
                left_out.n_expressions += reference.expressions.len() - n_left;
            }
        }
        self.left_out_refs.insert(left_out)
    }

    /// What [`Dataset::leave_out_unreadable`] left out; `None` if it was not called.
    pub fn left_out_refs(&self) -> Option<&LeftOut> {
        self.left_out_refs.as_ref()
    }
}

pub(crate) fn has_text(expression: &Expression) -> bool {
    !expression.sent.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::queries;

    #[test]
    fn a_split_with_unreadable_refs_can_be_evaluated() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("mine");
        std::fs::create_dir(&set).unwrap();
        let picture = |name: &str, height| image::RgbImage::new(6, height).save(set.join(name)).unwrap();
        picture("a.png", 4);
        picture("b.png", 5);
        let line = |image: &str, text: &str, mask: &str| {
            format!(
                r#"{{"image": "{image}", "split": "val", "expressions": ["{text}"], "mask": {{"size": [4, 6], "counts": {mask}}}}}"#
            )
        };
        let lines = [
            line("a.png", "whole", "[0, 24]"),
            line("a.png", " ", "[0, 24]"),
            line("a.png", "too long", "[0, 25]"),
            line("b.png", "a row taller", "[0, 24]"),
        ];
        std::fs::write(set.join("refs.jsonl"), lines.join("\n")).unwrap();
        let mut dataset = Dataset::open("mine", folder.path()).unwrap();
        assert_eq!(queries(&dataset, "val").unwrap().len(), 4);
        let left_out = dataset.leave_out_unreadable(&["val".to_owned()]).clone();
        assert_eq!((left_out.refs.len(), left_out.n_expressions, left_out.n_left), (2, 3, 1));
        assert!(left_out.refs[&2].contains("25"), "{left_out:?}");
        let left = queries(&dataset, "val").unwrap();
        assert_eq!(left.iter().map(|query| query.text.as_str()).collect::<Vec<_>>(), ["whole"]);
    }
}
