//! Ablation plans: what an ablation trains, rows (settings) times seeds.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use run_files::Row;
use serde::Deserialize;

use crate::losses::LOSSES;

/// Plans that are shipped, by name.
const SHIPPED: [(&str, &str); 9] = [
    ("paper", include_str!("../../plans/paper.toml")),
    ("quick", include_str!("../../plans/quick.toml")),
    ("beyond", include_str!("../../plans/beyond.toml")),
    ("tuning", include_str!("../../plans/tuning.toml")),
    ("objectives", include_str!("../../plans/objectives.toml")),
    ("confirm", include_str!("../../plans/confirm.toml")),
    ("causes", include_str!("../../plans/causes.toml")),
    ("confirm-rca", include_str!("../../plans/confirm-rca.toml")),
    ("shifted", include_str!("../../plans/shifted.toml")),
];

/// A plan, as written in a TOML file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AblationPlan {
    /// Name of the plan; its runs are in the folder `runs/ablate-NAME` by default.
    pub(crate) name: String,
    /// Preset of every cell.
    pub(crate) preset: Option<String>,
    /// Config of every cell, instead of a preset.
    pub(crate) config: Option<String>,
    /// Data set of every cell, instead of the config's.
    pub(crate) dataset: Option<String>,
    /// Seeds of every row.
    pub(crate) seeds: Vec<u64>,
    /// The row that the others are compared with [default: the first].
    pub(crate) baseline: Option<String>,
    /// Config overrides for every cell.
    #[serde(default)]
    pub(crate) set: Vec<String>,
    /// How axes are combined into rows.
    #[serde(default)]
    pub(crate) mode: AxisMode,
    /// Rows that are listed explicitly.
    #[serde(default)]
    pub(crate) row: Vec<Row>,
    /// Axes to vary. Each value of an axis is a list of overrides; the first value is the base.
    #[serde(default)]
    pub(crate) axis: Vec<Axis>,
}

/// How axes are combined into rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AxisMode {
    /// Every combination of values.
    #[default]
    Grid,
    /// The base row, then every other value of each axis while the remaining axes keep their base value.
    OneAtATime,
    /// The base row, then one axis after another is switched to its last value and stays there.
    Cumulative,
}

/// An axis: a known component to switch off and on, or a config key with a list of values.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Axis {
    /// `rca`, `rca-adapter`, `rca-neck`, `cpcl`, `tccl`, `gate`, `text-adapters`, or a config key.
    pub(crate) key: String,
    /// Values of a config key; empty for a component, whose values are off and on.
    #[serde(default)]
    pub(crate) values: Vec<toml::Value>,
}

impl AblationPlan {
    /// A shipped plan, or one from a file.
    pub(crate) fn load(name: &str) -> Result<Self> {
        let text = match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((_, text)) => (*text).to_owned(),
            None if Path::new(name).is_file() => {
                std::fs::read_to_string(name).with_context(|| name.to_owned())?
            }
            None => {
                let shipped = SHIPPED.map(|(name, _)| name).join(", ");
                bail!("no plan is called `{name}` and there is no such file; shipped are {shipped}")
            }
        };
        let plan: Self = toml::from_str(&text)
            .map_err(|error: toml::de::Error| anyhow::anyhow!("plan {name}: {error}"))?;
        ensure!(
            !plan.name.is_empty() && !plan.name.contains(|letter: char| letter == '/' || letter.is_control()),
            "plan {name}: its name ({}) is that of a folder: no `/`, no control characters",
            plan.name
        );
        Ok(plan)
    }

    /// A plan of axes given on the command line.
    pub(crate) fn of_axes(axes: &[String], mode: AxisMode) -> Result<Self> {
        let axis = axes.iter().map(|text| Axis::parse(text)).collect::<Result<_>>()?;
        Ok(Self {
            name: "custom".into(),
            preset: None,
            config: None,
            dataset: None,
            seeds: vec![0],
            baseline: None,
            set: vec![],
            mode,
            row: vec![],
            axis,
        })
    }

    /// All rows of the plan: first those listed explicitly, then those of the axes.
    pub(crate) fn rows(&self) -> Result<Vec<Row>> {
        let mut rows = self.row.clone();
        if !self.axis.is_empty() {
            rows.extend(self.rows_of_axes()?);
        }
        self.check_rows(&rows)?;
        self.check_settings(&rows)?;
        let unique: BTreeSet<u64> = self.seeds.iter().copied().collect();
        ensure!(!self.seeds.is_empty(), "plan {}: it has no seeds", self.name);
        ensure!(unique.len() == self.seeds.len(), "plan {}: a seed occurs twice", self.name);
        Ok(rows)
    }

    /// Checks that row names are distinct and valid as folder names, and that the baseline is one of the rows.
    fn check_rows(&self, rows: &[Row]) -> Result<()> {
        ensure!(!rows.is_empty(), "plan {}: it has neither rows nor axes", self.name);
        let mut seen = BTreeSet::new();
        for row in rows {
            let folder = folder_name(&row.name);
            ensure!(!folder.is_empty(), "plan {}: row `{}` needs a letter or digit", self.name, row.name);
            ensure!(
                folder.len() <= MAX_NAME && folder != "ablation.json",
                "plan {}: row `{}` cannot be a folder's name; choose a shorter or another one",
                self.name,
                row.name
            );
            ensure!(seen.insert(folder), "plan {}: two rows are called `{}`", self.name, row.name);
        }
        let baseline = self.baseline.as_ref();
        ensure!(
            baseline.is_none_or(|name| rows.iter().any(|row| row.name == *name)),
            "plan {}: the baseline `{}` is none of its rows",
            self.name,
            baseline.cloned().unwrap_or_default()
        );
        Ok(())
    }

    /// Checks that no row sets a key twice, and that every setting has an effect.
    fn check_settings(&self, rows: &[Row]) -> Result<()> {
        let key_of = |setting: &str| setting.split('=').next().unwrap_or_default().trim().to_owned();
        for row in rows {
            let mut keys = BTreeSet::new();
            for key in row.set.iter().map(|setting| key_of(setting)) {
                let message = format!("plan {}: row `{}` sets `{key}` twice", self.name, row.name);
                ensure!(keys.insert(key), message);
            }
        }
        ensure!(
            self.preset.is_none() || self.config.is_none(),
            "plan {}: it names a preset and a config; one of them would be ignored",
            self.name
        );
        let of_rows = rows.iter().flat_map(|row| &row.set);
        for setting in self.set.iter().chain(of_rows) {
            ensure!(
                key_of(setting) != "seed",
                "plan {}: `{setting}` does nothing: every row is trained with each of the seeds; choose them with `seeds` \
                 in a plan or --seeds",
                self.name
            );
        }
        ensure!(
            self.axis.iter().all(|axis| axis.key != "name"),
            "plan {}: the axis `name` changes nothing about training",
            self.name
        );
        Ok(())
    }

    fn rows_of_axes(&self) -> Result<Vec<Row>> {
        let axes: Vec<Vec<Row>> = self.axis.iter().map(Axis::levels).collect::<Result<_>>()?;
        let bases: Vec<usize> = vec![0; axes.len()];
        let mut choices: Vec<Vec<usize>> = Vec::new();
        match self.mode {
            AxisMode::Grid => {
                choices.push(vec![]);
                for levels in &axes {
                    choices = choices
                        .into_iter()
                        .flat_map(|choice| {
                            (0..levels.len()).map(move |level| [choice.clone(), vec![level]].concat())
                        })
                        .collect();
                }
            }
            AxisMode::OneAtATime => {
                choices.push(bases.clone());
                for (axis, levels) in axes.iter().enumerate() {
                    for level in 1..levels.len() {
                        let mut choice = bases.clone();
                        choice[axis] = level;
                        choices.push(choice);
                    }
                }
            }
            AxisMode::Cumulative => {
                choices.push(bases.clone());
                for (axis, levels) in axes.iter().enumerate() {
                    let mut choice = choices[choices.len() - 1].clone();
                    choice[axis] = levels.len() - 1;
                    choices.push(choice);
                }
            }
        }
        let row = |choice: Vec<usize>| {
            let levels: Vec<&Row> = axes.iter().zip(&choice).map(|(levels, &level)| &levels[level]).collect();
            let names: Vec<&str> = levels.iter().map(|level| level.name.as_str()).collect();
            Row { name: names.join(", "), set: levels.iter().flat_map(|level| level.set.clone()).collect() }
        };
        Ok(choices.into_iter().map(row).collect())
    }
}

impl Axis {
    /// Parses a component (`rca`) or a config key with values (`loss.cpcl=0,0.1,1`).
    fn parse(text: &str) -> Result<Self> {
        let Some((key, values)) = text.split_once('=') else {
            return Ok(Self { key: text.to_owned(), values: vec![] });
        };
        let as_toml = |text: &str| -> Option<toml::Value> {
            format!("value = {text}").parse::<toml::Table>().ok()?.remove("value")
        };
        // A value may be a list: model.image.adapter_blocks=[1,3],[1,3,5].
        if let Some(toml::Value::Array(values)) = as_toml(&format!("[{values}]")) {
            return Ok(Self { key: key.to_owned(), values });
        }
        ensure!(
            !values.contains(['[', '{']),
            "axis `{text}`: its values are not TOML; a list is written as in [1,3] or [\"a\",\"b\"]"
        );
        // Words may stand without quotes: model.image.fusion=cost-volume,none.
        let value = |text: &str| as_toml(text).unwrap_or_else(|| text.into());
        Ok(Self { key: key.to_owned(), values: values.split(',').map(value).collect() })
    }

    /// The values of the axis as rows, the base first.
    fn levels(&self) -> Result<Vec<Row>> {
        if !self.values.is_empty() {
            let level = |value: &toml::Value| {
                let setting = format!("{}={value}", self.key);
                Row { name: setting.replace('"', ""), set: vec![setting] }
            };
            return Ok(self.values.iter().map(level).collect());
        }
        let (adapter, neck) = ("model.image.fusion", "model.head.fusion");
        let settings: [Vec<String>; 2] = match self.key.as_str() {
            "rca" => [
                vec![format!("{adapter}=cross-attention"), format!("{neck}=multiply")],
                vec![format!("{adapter}=cost-volume"), format!("{neck}=cost-volume")],
            ],
            "rca-adapter" => {
                [vec![format!("{adapter}=cross-attention")], vec![format!("{adapter}=cost-volume")]]
            }
            "rca-neck" => [vec![format!("{neck}=multiply")], vec![format!("{neck}=cost-volume")]],
            "gate" => [vec!["model.image.gate=frozen".into()], vec!["model.image.gate=learned".into()]],
            "text-adapters" => {
                [vec!["model.text.adapters=false".into()], vec!["model.text.adapters=true".into()]]
            }
            other => {
                let Some(loss) = LOSSES.iter().find(|loss| loss.name() == other) else {
                    let with_weight = LOSSES.iter().filter(|loss| loss.weight() > 0.0);
                    let losses: Vec<&str> = with_weight.map(|loss| loss.name()).collect();
                    bail!(
                        "axis `{other}` is no component (rca, rca-adapter, rca-neck, gate, text-adapters) and no loss ({}), \
                         and has no values; give a config key its values, as in loss.cpcl=0,0.1,1",
                        losses.join(", ")
                    )
                };
                ensure!(
                    loss.weight() > 0.0,
                    "axis `{other}` has no values, and the official recipe no weight for it; give some, as in loss.{other}=0.0,0.5"
                );
                [vec![format!("loss.{other}=0.0")], vec![format!("loss.{other}={:?}", loss.weight())]]
            }
        };
        let [off, on] = settings;
        Ok(vec![Row { name: format!("no {}", self.key), set: off }, Row { name: self.key.clone(), set: on }])
    }
}

/// Maximum length of a folder's name in bytes; file systems allow 255.
const MAX_NAME: usize = 200;

/// Converts a row's name to a folder name.
pub(crate) fn folder_name(name: &str) -> String {
    let mut folder = String::new();
    for letter in name.chars() {
        match letter {
            // A leading dot would hide the folder, or (`..`) lead out of the parent folder.
            '.' if folder.is_empty() => {}
            letter if letter.is_ascii_alphanumeric() || matches!(letter, '.' | '=' | '+') => {
                folder.push(letter);
            }
            _ if folder.ends_with('-') || folder.is_empty() => {}
            _ => folder.push('-'),
        }
    }
    folder.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axes: &[&str], mode: AxisMode) -> Vec<String> {
        let axes: Vec<String> = axes.iter().map(|axis| (*axis).to_owned()).collect();
        AblationPlan::of_axes(&axes, mode).unwrap().rows().unwrap().into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn values_of_an_axis_may_be_lists_or_bare_words() {
        let values = |axis: &str| Axis::parse(axis).map(|axis| axis.values);
        let list = |values: &[i64]| toml::Value::Array(values.iter().map(|&value| value.into()).collect());
        assert_eq!(values("model.image.adapter_blocks=[1,3],[]").unwrap(), [list(&[1, 3]), list(&[])]);
        assert_eq!(values("loss.cpcl=0,0.1").unwrap(), [0.into(), 0.1.into()]);
        assert_eq!(values("f=cost-volume,none").unwrap(), ["cost-volume".into(), toml::Value::from("none")]);
        assert_eq!(values("f=none,0.5").unwrap(), ["none".into(), toml::Value::from(0.5)]);
        let error = values("data.datasets=[a,b],[c]").unwrap_err().to_string();
        assert!(error.contains("[\"a\",\"b\"]"), "{error}");
    }

    #[test]
    fn a_loss_without_a_weight_of_its_own_needs_values() {
        let rows = |axis: &str| AblationPlan::of_axes(&[axis.to_owned()], AxisMode::Grid).unwrap().rows();
        let error = rows("mass").unwrap_err().to_string();
        assert!(error.contains("loss.mass=0.0,0.5"), "{error}");
        assert_eq!(rows("loss.mass=0.0,0.5").unwrap().len(), 2);
        assert_eq!(rows("cpcl").unwrap()[1].set, ["loss.cpcl=0.1"]);
    }

    #[test]
    fn the_help_names_every_shipped_plan() {
        let command = <crate::ablate::AblateArgs as clap::Args>::augment_args(clap::Command::new("ablate"));
        let plan = command.get_arguments().find(|arg| arg.get_id() == "plan").unwrap();
        let help = plan.get_help().unwrap().to_string();
        for (name, _) in SHIPPED {
            assert!(help.contains(&format!("{name},")), "{name} is missing in `{help}`");
        }
    }

    #[test]
    fn shipped_plans_load_and_their_settings_are_valid() {
        for (name, _) in SHIPPED {
            let plan = AblationPlan::load(name).unwrap();
            for row in plan.rows().unwrap() {
                let source = crate::config::Source {
                    preset: plan.preset.clone(),
                    overrides: row.set,
                    ..Default::default()
                };
                crate::config::load(&source).unwrap();
            }
        }
    }

    #[test]
    fn axes_become_rows() {
        assert_eq!(
            names(&["rca", "loss.cpcl=0.0,0.1"], AxisMode::Grid),
            ["no rca, loss.cpcl=0.0", "no rca, loss.cpcl=0.1", "rca, loss.cpcl=0.0", "rca, loss.cpcl=0.1"]
        );
        assert_eq!(
            names(&["rca", "model.image.gate=frozen,learned"], AxisMode::OneAtATime),
            [
                "no rca, model.image.gate=frozen",
                "rca, model.image.gate=frozen",
                "no rca, model.image.gate=learned"
            ]
        );
        assert_eq!(
            names(&["rca", "cpcl", "tccl"], AxisMode::Cumulative),
            ["no rca, no cpcl, no tccl", "rca, no cpcl, no tccl", "rca, cpcl, no tccl", "rca, cpcl, tccl"]
        );
    }

    #[test]
    fn mistakes_are_named() {
        let error =
            AblationPlan::of_axes(&["rcb".into()], AxisMode::Grid).unwrap().rows().unwrap_err().to_string();
        assert!(error.contains("`rcb`"), "{error}");
        for (axis, what) in [("seed=1,2", "--seeds"), ("name=a,b", "`name`")] {
            let error = AblationPlan::of_axes(&[axis.into()], AxisMode::Grid)
                .unwrap()
                .rows()
                .unwrap_err()
                .to_string();
            assert!(error.contains(what), "{error}");
        }
        assert!(AblationPlan::load("papr").unwrap_err().to_string().contains("papr"));
        let twice = "name = \"x\"\nseeds = [1, 1]\n[[row]]\nname = \"a\"\nset = []";
        let plan: AblationPlan = toml::from_str(twice).unwrap();
        assert!(plan.rows().unwrap_err().to_string().contains("a seed occurs twice"));
    }

    #[test]
    fn folders_are_named_plainly() {
        assert_eq!(folder_name("+RCA +CPCL"), "+RCA-+CPCL");
        assert_eq!(folder_name("no rca, loss.cpcl=0.1"), "no-rca-loss.cpcl=0.1");
        assert_eq!(folder_name("../../etc"), "etc");
    }
}
