//! Names of DINOv2's tensors in published files.

use weight_files::{Layout, Step, nothing_beside, numbered};

use crate::projection::{Projection, ProjectionRole, Projections};

/// The library's names changed in version 5.23. Its gated MLP has had gate and value in layers of their own since.
pub(crate) const PROJECTIONS: Projections = Projections {
    blocks: "blocks",
    published_blocks: "encoder.layer",
    published_front: "",
    published_classes: &["Dinov2"],
    foreign: &["text_model", "vision_model"],
    layers: &[
        Projection::new(
            ProjectionRole::Query,
            "attn.qkv",
            Some((0, 3)),
            &["attention.q_proj", "attention.attention.query"],
        ),
        Projection::new(
            ProjectionRole::Key,
            "attn.qkv",
            Some((1, 3)),
            &["attention.k_proj", "attention.attention.key"],
        ),
        Projection::new(
            ProjectionRole::Value,
            "attn.qkv",
            Some((2, 3)),
            &["attention.v_proj", "attention.attention.value"],
        ),
        Projection::new(
            ProjectionRole::Output,
            "attn.proj",
            None,
            &["attention.o_proj", "attention.output.dense"],
        ),
        Projection::new(ProjectionRole::Up, "mlp.fc1", None, &["mlp.fc1"]),
        Projection::new(ProjectionRole::Down, "mlp.fc2", None, &["mlp.fc2"]),
        Projection::new(ProjectionRole::Gate, "mlp.w12", Some((0, 2)), &["mlp.gate_proj"]),
        Projection::new(ProjectionRole::Up, "mlp.w12", Some((1, 2)), &["mlp.up_proj"]),
        Projection::new(ProjectionRole::Down, "mlp.w3", None, &["mlp.down_proj", "mlp.weights_out"]),
    ],
};

pub(crate) static LAYOUTS: &[Layout] = &[
    Layout {
        name: "timm's names",
        prefixes: &[""],
        mark: "reg_token",
        target: timm,
        beside: nothing_beside,
        elsewhere: |name| name.starts_with("head."),
        needs: None,
    },
    Layout {
        name: "DINOv2's own names",
        prefixes: &[""],
        mark: "cls_token",
        target: own,
        beside: nothing_beside,
        elsewhere: |_| false,
        needs: None,
    },
    Layout {
        name: "Hugging Face names",
        // A bare model has no prefix, a model with a head has one.
        prefixes: &["", "dinov2_with_registers.", "dinov2."],
        mark: "embeddings.cls_token",
        target: hugging_face,
        beside: nothing_beside,
        elsewhere: |name| name.starts_with("classifier."),
        needs: None,
    },
];

/// FSDP training wraps runs of blocks in chunks: `blocks.CHUNK.BLOCK`, with the block's number in the whole network.
fn own(name: &str) -> Option<(String, Step)> {
    let chunked = name.strip_prefix("blocks.").and_then(numbered).and_then(|(_, rest)| numbered(rest));
    let name = chunked.map_or_else(|| name.to_owned(), |(block, rest)| format!("blocks.{block}.{rest}"));
    Some((name, Step::Copy))
}

fn timm(name: &str) -> Option<(String, Step)> {
    Some(match name {
        "reg_token" => ("register_tokens".to_owned(), Step::Copy),
        "pos_embed" => ("pos_embed".to_owned(), Step::Positions),
        other => (other.to_owned(), Step::Copy),
    })
}

fn hugging_face(name: &str) -> Option<(String, Step)> {
    let top = match name {
        "embeddings.cls_token" => "cls_token",
        "embeddings.mask_token" => "mask_token",
        "embeddings.register_tokens" => "register_tokens",
        "embeddings.position_embeddings" => "pos_embed",
        "embeddings.patch_embeddings.projection.weight" => "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias" => "patch_embed.proj.bias",
        "layernorm.weight" => "norm.weight",
        "layernorm.bias" => "norm.bias",
        _ => "",
    };
    if !top.is_empty() {
        return Some((top.to_owned(), Step::Copy));
    }
    let (index, rest) = numbered(name.strip_prefix("encoder.layer.")?)?;
    let (module, kind) = match rest {
        "layer_scale1.lambda1" => ("ls1", "gamma"),
        "layer_scale2.lambda1" => ("ls2", "gamma"),
        _ => rest.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?,
    };
    // The second spelling of the attention's modules is that of Hugging Face's library since 5.23, in memory and optionally on
    // disk.
    let (module, step) = match module {
        "norm1" | "norm2" | "mlp.fc1" | "mlp.fc2" | "ls1" | "ls2" => (module, Step::Copy),
        "mlp.weights_in" => ("mlp.w12", Step::Copy),
        "mlp.weights_out" => ("mlp.w3", Step::Copy),
        "attention.attention.query" | "attention.q_proj" => ("attn.qkv", Step::Third(0)),
        "attention.attention.key" | "attention.k_proj" => ("attn.qkv", Step::Third(1)),
        "attention.attention.value" | "attention.v_proj" => ("attn.qkv", Step::Third(2)),
        "attention.output.dense" | "attention.o_proj" => ("attn.proj", Step::Copy),
        _ => return None,
    };
    Some((format!("blocks.{index}.{module}.{kind}"), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_projections_are_taken_by_name() {
        let bias = "blocks.10.attn.qkv.bias".to_owned();
        assert_eq!(
            hugging_face("encoder.layer.10.attention.attention.value.bias").unwrap(),
            (bias, Step::Third(2))
        );
    }
}
