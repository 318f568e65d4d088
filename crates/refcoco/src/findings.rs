//! Quick checks of a data set before training or evaluation.

use std::fmt;

use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::tokenizer::Tokenizer;

/// Odd things about some refs that do not stop a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Number of expressions without text.
    pub empty_expressions: usize,
    /// Number of expressions with more tokens than the model takes; the rest of each is cut off.
    pub cut_expressions: usize,
    /// The model's number of tokens.
    pub word_len: usize,
    /// Number of refs whose target is to have a mask, but the mask is empty.
    pub empty_targets: usize,
    /// Number of refs whose target covers the whole picture.
    pub whole_targets: usize,
    /// Number of refs whose mask was looked at.
    pub masks: usize,
}

impl std::ops::Add for Findings {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            empty_expressions: self.empty_expressions + other.empty_expressions,
            cut_expressions: self.cut_expressions + other.cut_expressions,
            word_len: self.word_len.max(other.word_len),
            empty_targets: self.empty_targets + other.empty_targets,
            whole_targets: self.whole_targets + other.whole_targets,
            masks: self.masks + other.masks,
        }
    }
}

impl Findings {
    /// Whether nothing odd was found.
    pub fn is_empty(&self) -> bool {
        self.empty_expressions + self.cut_expressions + self.empty_targets + self.whole_targets == 0
    }
}

impl fmt::Display for Findings {
    /// One line, without a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let mut found = Vec::new();
        if self.cut_expressions > 0 {
            let what = plural(self.cut_expressions, "expression is", "expressions are");
            found.push(format!("{what} cut at {} tokens", self.word_len));
        }
        if self.empty_expressions > 0 {
            found.push(plural(self.empty_expressions, "expression is empty", "expressions are empty"));
        }
        let of_masks = format!(" (of {} looked at)", self.masks);
        if self.empty_targets > 0 {
            found.push(plural(self.empty_targets, "target is empty", "targets are empty") + &of_masks);
        }
        if self.whole_targets > 0 {
            let what = plural(self.whole_targets, "target covers", "targets cover");
            found.push(format!("{what} the whole picture{of_masks}"));
        }
        f.write_str(&found.join("; "))
    }
}

impl Dataset {
    /// Looks at some refs' expressions, and at the masks of the first `max_masks` of them.
    ///
    /// - refs: indices into [`Dataset::refs`]
    /// - word_len: tokens that the model takes, start and end token included
    pub fn findings(
        &self,
        refs: &[usize],
        tokenizer: &dyn Tokenizer,
        word_len: usize,
        max_masks: usize,
    ) -> Findings {
        let texts = |&index: &usize| {
            let mut found = Findings { word_len, ..Findings::default() };
            for expression in &self.refs[index].expressions {
                found.empty_expressions += usize::from(expression.sent.trim().is_empty());
                let ids = tokenizer.encode(&expression.sent);
                found.cut_expressions += usize::from(ids.is_ok_and(|ids| ids.len() > word_len));
            }
            found
        };
        let masks = |&index: &usize| {
            let reference = &self.refs[index];
            let mut found = Findings { masks: 1, ..Findings::default() };
            // Unreadable masks are reported when they are first used.
            if let Ok(mask) = self.target(reference)
                && !reference.ann_ids.is_empty()
            {
                let area = mask.area();
                found.empty_targets = usize::from(area == 0);
                found.whole_targets = usize::from(area > 0 && area == mask.width * mask.height);
            }
            found
        };
        let add = |one: Findings, other: Findings| one + other;
        let of_texts = refs.par_iter().map(texts).reduce(Findings::default, add);
        let some = &refs[..refs.len().min(max_masks)];
        of_texts + some.par_iter().map(masks).reduce(Findings::default, add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_one_line() {
        assert_eq!(Findings::default().to_string(), "");
        let found = Findings {
            empty_expressions: 1,
            cut_expressions: 3,
            word_len: 22,
            empty_targets: 2,
            whole_targets: 1,
            masks: 9,
        };
        assert_eq!(
            found.to_string(),
            "3 expressions are cut at 22 tokens; 1 expression is empty; 2 targets are empty (of 9 looked at); \
             1 target covers the whole picture (of 9 looked at)"
        );
    }
}
