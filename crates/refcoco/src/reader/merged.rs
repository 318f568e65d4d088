//! Two `instances.json` as one.

use std::collections::BTreeMap;

use crate::annotation::Ref;
use crate::reader::Instances;

/// New ids of those records whose id was taken by another record.
#[derive(Debug, Default)]
pub(super) struct Moved {
    images: BTreeMap<i64, i64>,
    annotations: BTreeMap<i64, i64>,
    categories: BTreeMap<i64, i64>,
}

impl Instances {
    /// Adds the records of other instances. A record that is there already, with the same id and contents, is the same; one whose
    /// id belongs to another record gets a new id.
    pub(super) fn merge(&mut self, other: Self) -> Moved {
        let mut moved = Moved::default();
        for (id, name) in other.categories {
            match self.categories.get(&id) {
                Some(known) if *known != name => {
                    let known = self.categories.iter().find(|(_, other)| **other == name).map(|(&id, _)| id);
                    let new = known.unwrap_or_else(|| free(&self.categories));
                    moved.categories.insert(id, new);
                    self.categories.insert(new, name);
                }
                _ => drop(self.categories.insert(id, name)),
            }
        }
        for (id, mut image) in other.images {
            if self.images.get(&id).is_some_and(|known| *known != image) {
                image.id = free(&self.images);
                moved.images.insert(id, image.id);
            }
            self.images.insert(image.id, image);
        }
        for (id, mut annotation) in other.annotations {
            let to = |ids: &BTreeMap<i64, i64>, id: i64| ids.get(&id).copied().unwrap_or(id);
            annotation.image_id = to(&moved.images, annotation.image_id);
            annotation.category_id = to(&moved.categories, annotation.category_id);
            let is_same = |known: &crate::annotation::Annotation| {
                known.image_id == annotation.image_id
                    && known.segmentation.get() == annotation.segmentation.get()
            };
            if self.annotations.get(&id).is_some_and(|known| !is_same(known)) {
                annotation.id = free(&self.annotations);
                moved.annotations.insert(id, annotation.id);
            }
            self.annotations.insert(annotation.id, annotation);
        }
        self.unusable.images.extend(other.unusable.images);
        self.unusable.annotations.extend(other.unusable.annotations);
        self.unusable.without_id.extend(other.unusable.without_id);
        moved
    }
}

fn free<T>(records: &BTreeMap<i64, T>) -> i64 {
    records.last_key_value().map_or(1, |(&last, _)| last.saturating_add(1))
}

impl Moved {
    /// A ref of the other instances, with the ids that its records have now.
    pub(super) fn apply(&self, mut reference: Ref) -> Ref {
        let to = |ids: &BTreeMap<i64, i64>, id: &mut i64| *id = ids.get(id).copied().unwrap_or(*id);
        to(&self.images, &mut reference.image_id);
        reference.ann_ids.iter_mut().for_each(|id| to(&self.annotations, id));
        reference.category_ids.iter_mut().for_each(|id| to(&self.categories, id));
        reference
    }
}
