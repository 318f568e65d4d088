//! What `predict` is asked for: images and the expressions about each.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use run_files::{PictureQuery, read_queries};

use super::PredictArgs;

/// What to predict.
#[derive(Debug)]
pub(super) enum Request {
    /// One expression in one image, named on the command line.
    One { image: PathBuf, text: String },
    /// Anything else: images, each with its expressions.
    Many(Vec<Picture>),
}

/// An image and the expressions about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    /// Its name in predictions.
    pub(super) name: String,
    /// The file, or why the name cannot be one.
    pub(super) file: Result<PathBuf, String>,
    pub(super) expressions: Vec<Expression>,
}

/// An expression, and its place in the list of all queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) place: usize,
    pub(super) text: String,
    pub(super) ids: (Option<i64>, Option<i64>),
}

/// File names that are images, for folders.
const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "tif", "tiff", "webp"];

pub(super) fn request(args: &PredictArgs) -> Result<Request> {
    ensure!(args.batch_size != Some(0), "--batch-size must be positive");
    if let Some(list) = &args.queries {
        let queries = read_queries(list)?;
        return Ok(Request::Many(of_queries(&args.image, queries)?));
    }
    ensure!(args.text.iter().all(|text| !text.trim().is_empty()), "--text: the expression is empty");
    if let ([text], false) = (&args.text[..], args.image.is_dir())
        && !is_pattern(&args.image)
    {
        return Ok(Request::One { image: args.image.clone(), text: text.clone() });
    }
    let mut place = 0..;
    let pictures = images(&args.image)?.into_iter().map(|(name, path)| {
        let expression = |text: &String| Expression {
            place: place.next().unwrap_or_default(),
            text: text.clone(),
            ids: (None, None),
        };
        Picture { name, file: Ok(path), expressions: args.text.iter().map(expression).collect() }
    });
    Ok(Request::Many(pictures.collect()))
}

/// Whether a path is meant as a pattern: it names no file and holds `*`, `?` or `[`.
fn is_pattern(path: &Path) -> bool {
    !path.exists() && path.to_string_lossy().contains(['*', '?', '['])
}

/// The images that `--image` names, with their names in predictions, sorted.
fn images(given: &Path) -> Result<Vec<(String, PathBuf)>> {
    let shown = given.display();
    let mut found: Vec<(String, PathBuf)> = if given.is_dir() {
        let entries = std::fs::read_dir(given).with_context(|| shown.to_string())?;
        let files = entries.map(|entry| Ok(entry.with_context(|| shown.to_string())?.path()));
        let files = files.collect::<Result<Vec<PathBuf>>>()?;
        let images = files.into_iter().filter(|file| is_image_name(file) && file.is_file());
        images
            .map(|file| (file.file_name().unwrap_or_default().to_string_lossy().into_owned(), file))
            .collect()
    } else if is_pattern(given) {
        let pattern = given.to_str().with_context(|| format!("--image {shown}: the pattern is not UTF-8"))?;
        let paths = glob::glob(pattern).with_context(|| format!("--image {pattern}"))?;
        let paths =
            paths.collect::<Result<Vec<PathBuf>, _>>().with_context(|| format!("--image {pattern}"))?;
        let files = paths.into_iter().filter(|path| path.is_file());
        files.map(|file| (file.to_string_lossy().into_owned(), file)).collect()
    } else {
        vec![(given.to_string_lossy().into_owned(), given.to_path_buf())]
    };
    found.sort();
    ensure!(
        !found.is_empty(),
        "--image {shown}: no image there ({}); a pattern such as 'DIR/**/*.jpg' also finds those in subfolders",
        EXTENSIONS.join(", ")
    );
    Ok(found)
}

fn is_image_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    !name.starts_with('.') && EXTENSIONS.contains(&extension.as_str())
}

/// The images of a list of queries, in the order of their first query.
fn of_queries(given: &Path, queries: Vec<PictureQuery>) -> Result<Vec<Picture>> {
    if !given.is_dir() && !given.is_file() && !is_pattern(given) {
        bail!("--image {}: there is no such file or folder", given.display());
    }
    // Named by a pattern or as one file, images are found by their file names.
    let known: Option<HashMap<String, PathBuf>> = match given.is_dir() {
        true => None,
        false => Some(
            images(given)?
                .into_iter()
                .map(|(_, path)| (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path))
                .collect(),
        ),
    };
    let file = |name: &str| match &known {
        None => below(given, name),
        Some(known) => {
            known.get(name).cloned().ok_or_else(|| format!("--image {} does not name it", given.display()))
        }
    };
    let mut pictures: Vec<Picture> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, PictureQuery { image, expression, ids }) in queries.into_iter().enumerate() {
        let index = *places.entry(image.clone()).or_insert_with(|| {
            pictures.push(Picture { file: file(&image), name: image, expressions: Vec::new() });
            pictures.len() - 1
        });
        pictures[index].expressions.push(Expression { place, text: expression, ids });
    }
    Ok(pictures)
}

/// A file below a folder. Names that lead out of it are refused: lists may come from elsewhere.
fn below(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match stays {
        true => Ok(folder.join(path)),
        false => Err(format!("the name leads out of {}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(image: &str, expression: &str) -> PictureQuery {
        PictureQuery { image: image.into(), expression: expression.into(), ids: (None, None) }
    }

    #[test]
    fn queries_are_grouped_by_image_and_keep_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let queries =
            vec![query("b.jpg", "x"), query("../a.jpg", "y"), query("b.jpg", "z"), query("/etc/a", "w")];
        let pictures = of_queries(folder.path(), queries).unwrap();
        let places = |picture: &Picture| picture.expressions.iter().map(|one| one.place).collect::<Vec<_>>();
        assert_eq!(pictures.iter().map(places).collect::<Vec<_>>(), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(pictures[0].file, Ok(folder.path().join("b.jpg")));
        assert!(pictures[1].file.is_err() && pictures[2].file.is_err());
        assert!(of_queries(&folder.path().join("absent"), vec![query("a", "b")]).is_err());
    }

    #[test]
    fn folders_and_patterns_give_sorted_images() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.PNG", "a.jpg", ".hidden.jpg", "notes.txt", "[odd].jpg"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |given: &Path| -> Vec<String> {
            images(given).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(folder.path()), ["[odd].jpg", "a.jpg", "b.PNG"]);
        let pattern = folder.path().join("?.*");
        assert!(is_pattern(&pattern) && !is_pattern(&folder.path().join("[odd].jpg")));
        assert_eq!(names(&pattern).len(), 2);
        assert!(images(&folder.path().join("*.bmp")).unwrap_err().to_string().contains("no image"));
    }
}
