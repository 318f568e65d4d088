//! The names that the `transformers` library gives the two encoders, and its configuration.

use serde_json::Value as Json;

use crate::encoder::{Encoder, EncoderPlan, Part, Step};
use crate::error::Error;
use crate::file::WeightFile;

/// What `config.json` says and no tensor reveals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncoderFacts {
    /// Attention heads.
    pub n_heads: Option<i64>,
}

/// The plan, if the file uses one of the library's naming schemes for this encoder.
pub(crate) fn plan(file: &WeightFile, encoder: Encoder) -> Result<Option<EncoderPlan>, Error> {
    // A bare model has no prefix; a model with a head, or CLIP's text tower, has one.
    let (prefixes, mark): (&[&str], &str) = match encoder {
        Encoder::Image => (&["", "dinov2_with_registers.", "dinov2."], "embeddings.cls_token"),
        Encoder::Text => (&["text_model.", ""], "embeddings.token_embedding.weight"),
    };
    let Some(prefix) = prefixes.iter().find(|prefix| file.info(&format!("{prefix}{mark}")).is_some()) else {
        return Ok(None);
    };
    let facts = facts(file.config(), encoder).map_err(|what| Error::malformed(file.path(), what))?;
    let mut plan = EncoderPlan {
        layout: "Hugging Face names",
        parts: vec![],
        ignored: vec![],
        unexpected: vec![],
        facts,
    };
    for (name, _) in file.tensors() {
        let mapped = match (encoder, name) {
            (Encoder::Text, "text_projection.weight") => Some(("text_projection".into(), Step::Transpose)),
            (Encoder::Text, "logit_scale") => Some(("logit_scale".into(), Step::Copy)),
            _ => name.strip_prefix(prefix).and_then(|name| match encoder {
                Encoder::Image => image_name(name),
                Encoder::Text => text_name(name),
            }),
        };
        match mapped {
            Some((target, step)) => plan.parts.push(Part { source: name.to_owned(), target, step }),
            None if belongs_elsewhere(name, encoder) => plan.ignored.push(name.to_owned()),
            None => plan.unexpected.push(name.to_owned()),
        }
    }
    let projection = plan.parts.iter().any(|part| part.target == "text_projection");
    if encoder == Encoder::Text && !projection {
        let what = "there is no `text_projection.weight`: a CLIPTextModel is not enough, take \
                    CLIPTextModelWithProjection or the full CLIPModel";
        return Err(Error::malformed(file.path(), what));
    }
    Ok(Some(plan))
}

/// Names are matched from their start: the image tower's layers end like the text tower's.
fn belongs_elsewhere(name: &str, encoder: Encoder) -> bool {
    match encoder {
        Encoder::Image => name.starts_with("classifier."),
        Encoder::Text => {
            name.starts_with("vision_model.")
                || name.starts_with("visual_projection.")
                || name.ends_with("embeddings.position_ids")
        }
    }
}

fn image_name(name: &str) -> Option<(String, Step)> {
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
    // The second spelling of the attention's parts is the library's own since 5.23, in memory and, if asked, on disk.
    let (module, step) = match module {
        "norm1" | "norm2" | "mlp.fc1" | "mlp.fc2" | "ls1" | "ls2" => (module, Step::Copy),
        "attention.attention.query" | "attention.q_proj" => ("attn.qkv", Step::Third(0)),
        "attention.attention.key" | "attention.k_proj" => ("attn.qkv", Step::Third(1)),
        "attention.attention.value" | "attention.v_proj" => ("attn.qkv", Step::Third(2)),
        "attention.output.dense" | "attention.o_proj" => ("attn.proj", Step::Copy),
        _ => return None,
    };
    Some((format!("blocks.{index}.{module}.{kind}"), step))
}

fn text_name(name: &str) -> Option<(String, Step)> {
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

/// Splits `11.norm1.weight` into its number and the rest.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (index, rest) = name.split_once('.')?;
    Some((index.parse().ok()?, rest))
}

/// Reads the configuration; an error if the file's network computes something else than ours.
fn facts(config: Option<&Json>, encoder: Encoder) -> Result<EncoderFacts, String> {
    let Some(config) = config else { return Ok(EncoderFacts::default()) };
    let model_type = config.get("model_type").and_then(Json::as_str);
    let expected: &[&str] = match encoder {
        Encoder::Image => &["dinov2_with_registers"],
        Encoder::Text => &["clip", "clip_text_model"],
    };
    if let Some(found) = model_type.filter(|found| !expected.contains(found)) {
        return Err(format!("config.json: model_type is `{found}`, expected `{}`", expected.join("` or `")));
    }
    // The full CLIP model nests the text tower's settings; in old files the second place wins. What equals the
    // library's default may be left out.
    let nested = ["text_config_dict", "text_config"];
    let places: Vec<&Json> = nested.iter().filter_map(|key| config.get(key)).chain([config]).collect();
    let setting = |key: &str| places.iter().find_map(|place| place.get(key)).filter(|value| !value.is_null());
    let (activation, eps, default_heads) = match encoder {
        Encoder::Image => ("gelu", 1e-6, None),
        Encoder::Text => ("quick_gelu", 1e-5, Some(8)),
    };
    if let Some(found) = setting("hidden_act").and_then(Json::as_str).filter(|found| *found != activation) {
        return Err(format!(
            "config.json: hidden_act is `{found}`, but this network computes `{activation}`"
        ));
    }
    if let Some(found) = setting("layer_norm_eps").and_then(Json::as_f64).filter(|found| *found != eps) {
        return Err(format!("config.json: layer_norm_eps is {found}, but this network uses {eps}"));
    }
    for (key, ours) in [("use_swiglu_ffn", false), ("qkv_bias", true)] {
        if setting(key).and_then(Json::as_bool).is_some_and(|found| found != ours) {
            return Err(format!("config.json: {key} is {}, which is another network", !ours));
        }
    }
    let n_heads = setting("num_attention_heads").and_then(Json::as_i64).or(default_heads);
    Ok(EncoderFacts { n_heads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_tower_is_not_a_text_tower() {
        assert_eq!(text_name("vision_model.encoder.layers.0.mlp.fc1.weight"), None);
        assert!(belongs_elsewhere("vision_model.encoder.layers.0.mlp.fc1.weight", Encoder::Text));
    }

    #[test]
    fn packed_projections_are_taken_by_name() {
        let third = |name: &str| text_name(name).unwrap();
        let packed = "transformer.resblocks.7.attn.in_proj_weight".to_owned();
        assert_eq!(third("encoder.layers.7.self_attn.k_proj.weight"), (packed, Step::Third(1)));
        let bias = "blocks.10.attn.qkv.bias".to_owned();
        assert_eq!(
            image_name("encoder.layer.10.attention.attention.value.bias").unwrap(),
            (bias, Step::Third(2))
        );
    }

    #[test]
    fn other_networks_are_refused() {
        let config = |text: &str| serde_json::from_str::<Json>(text).unwrap();
        let refused = |text: &str, encoder| facts(Some(&config(text)), encoder).unwrap_err();
        assert!(
            refused(r#"{"model_type":"clip_text_model","hidden_act":"gelu"}"#, Encoder::Text)
                .contains("gelu")
        );
        assert!(refused(r#"{"model_type":"dinov2"}"#, Encoder::Image).contains("dinov2_with_registers"));
        assert!(refused(r#"{"use_swiglu_ffn":true}"#, Encoder::Image).contains("use_swiglu_ffn"));
        let nested =
            config(r#"{"model_type":"clip","text_config":{},"vision_config":{"num_attention_heads":12}}"#);
        assert_eq!(facts(Some(&nested), Encoder::Text).unwrap().n_heads, Some(8));
    }
}
