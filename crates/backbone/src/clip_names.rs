//! Names of the tensors of CLIP's text tower in published files.

use weight_files::{Layout, Step, as_named, nothing_beside, numbered};

use crate::projection::{Projection, ProjectionRole, Projections};

pub(crate) const PROJECTIONS: Projections = Projections {
    blocks: "transformer.resblocks",
    published_blocks: "encoder.layers",
    published_front: "text_model.",
    published_classes: &["CLIPText", "CLIPModel"],
    foreign: &["vision_model"],
    layers: &[
        Projection::new(ProjectionRole::Query, "attn.in_proj", Some((0, 3)), &["self_attn.q_proj"]),
        Projection::new(ProjectionRole::Key, "attn.in_proj", Some((1, 3)), &["self_attn.k_proj"]),
        Projection::new(ProjectionRole::Value, "attn.in_proj", Some((2, 3)), &["self_attn.v_proj"]),
        Projection::new(ProjectionRole::Output, "attn.out_proj", None, &["self_attn.out_proj"]),
        Projection::new(ProjectionRole::Up, "mlp.c_fc", None, &["mlp.fc1"]),
        Projection::new(ProjectionRole::Down, "mlp.c_proj", None, &["mlp.fc2"]),
    ],
};

pub(crate) static LAYOUTS: &[Layout] = &[
    Layout {
        name: "OpenAI's own names",
        // open_clip's models with a text tower of their own have `text.` in front.
        prefixes: &["", "text."],
        mark: "token_embedding.weight",
        target: as_named,
        beside: nothing_beside,
        elsewhere: |name| {
            name.starts_with("visual.")
                || ["input_resolution", "context_length", "vocab_size"].contains(&name)
        },
        needs: None,
    },
    Layout {
        name: "Hugging Face names",
        // A text tower saved without a surrounding model has no prefix.
        prefixes: &["text_model.", ""],
        mark: "embeddings.token_embedding.weight",
        target: hugging_face,
        beside: |name| match name {
            "text_projection.weight" => Some(("text_projection".into(), Step::Transpose)),
            "logit_scale" => Some(("logit_scale".into(), Step::Copy)),
            _ => None,
        },
        elsewhere: of_image_tower,
        needs: Some((
            "text_projection",
            "there is no `text_projection.weight`: a CLIPTextModel is not enough, take CLIPTextModelWithProjection or the \
             full CLIPModel",
        )),
    },
];

/// Whether the text tower does not use a tensor: it belongs to the image tower or holds position ids. The image tower is
/// matched by prefix, because its layers have the same suffixes as the text tower's.
fn of_image_tower(name: &str) -> bool {
    name.starts_with("vision_model.")
        || name.starts_with("visual_projection.")
        || name.ends_with("embeddings.position_ids")
}

fn hugging_face(name: &str) -> Option<(String, Step)> {
    let top = match name {
        "embeddings.token_embedding.weight" => "token_embedding.weight",
        "embeddings.position_embedding.weight" => "positional_embedding",
        "final_layer_norm.weight" => "ln_final.weight",
        "final_layer_norm.bias" => "ln_final.bias",
        _ => "",
    };
    if !top.is_empty() {
        return Some((top.to_owned(), Step::Copy));
    }
    let (index, rest) = numbered(name.strip_prefix("encoder.layers.")?)?;
    let (module, kind) = rest.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
    let packed = if kind == "weight" { "attn.in_proj_weight" } else { "attn.in_proj_bias" };
    let whole = |module: &str| format!("{module}.{kind}");
    let (name, step) = match module {
        "layer_norm1" => (whole("ln_1"), Step::Copy),
        "layer_norm2" => (whole("ln_2"), Step::Copy),
        "self_attn.q_proj" => (packed.to_owned(), Step::Third(0)),
        "self_attn.k_proj" => (packed.to_owned(), Step::Third(1)),
        "self_attn.v_proj" => (packed.to_owned(), Step::Third(2)),
        "self_attn.out_proj" => (whole("attn.out_proj"), Step::Copy),
        "mlp.fc1" => (whole("mlp.c_fc"), Step::Copy),
        "mlp.fc2" => (whole("mlp.c_proj"), Step::Copy),
        _ => return None,
    };
    Some((format!("transformer.resblocks.{index}.{name}"), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_tower_is_not_a_text_tower() {
        assert_eq!(hugging_face("vision_model.encoder.layers.0.mlp.fc1.weight"), None);
        assert!(of_image_tower("vision_model.encoder.layers.0.mlp.fc1.weight"));
    }

    #[test]
    fn packed_projections_are_taken_by_name() {
        let packed = "transformer.resblocks.7.attn.in_proj_weight".to_owned();
        assert_eq!(hugging_face("encoder.layers.7.self_attn.k_proj.weight"), Some((packed, Step::Third(1))));
    }
}
