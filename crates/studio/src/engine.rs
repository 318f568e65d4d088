//! The queue in front of the network. One thread owns the networks and makes one prediction at a time; a few requests wait, and
//! others are told that it is busy.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;

use anyhow::{Context, Result, anyhow};
use axum::http::StatusCode;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::failure::{Answered, Failure};
use crate::picture::Picture;

/// A network that can be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its name on the page.
    pub name: String,
    /// Probability above which a pixel is foreground.
    pub threshold: f32,
}

/// What a network answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The fields that `predict` writes, without image and expression.
    pub fields: Map<String, Value>,
    /// Probabilities in the picture, row-major.
    pub probabilities: Vec<f32>,
}

/// The response to a sentence or a word somewhere in the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Where, for example `adapter in block 3`.
    pub name: String,
    /// The word that is responded to; `None` for the whole sentence.
    pub word: Option<String>,
    /// Side of the network's input in pixels: the square that the picture is letterboxed into.
    pub input_size: usize,
    /// Number of patches along a side.
    pub side: usize,
    /// Non-negative responses, `side * side`, row-major.
    pub response: Vec<f32>,
}

/// Makes predictions.
pub trait Predictor {
    /// The networks. The first is used where none is named.
    fn models(&self) -> Vec<Model>;

    /// Segments what an expression refers to.
    ///
    /// - model: index into [`Predictor::models`]
    ///
    /// # Errors
    /// When the network cannot be asked that, or fails.
    fn predict(&mut self, model: usize, picture: &Arc<Picture>, expression: &str) -> Result<Answer>;

    /// The responses inside the network for the same prediction, in the order of the network.
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    fn stages(&mut self, model: usize, picture: &Arc<Picture>, expression: &str) -> Result<Vec<Stage>>;
}

/// A question to a network.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) model: usize,
    pub(crate) picture: Arc<Picture>,
    pub(crate) expression: String,
}

type Reply<T> = oneshot::Sender<Result<T>>;

enum Job {
    Predict(Question, Reply<Answer>),
    Stages(Question, Reply<Vec<Stage>>),
}

/// Requests that wait while another is answered.
const QUEUE: usize = 8;

#[derive(Debug)]
pub(crate) struct Engine {
    models: Vec<Model>,
    queue: SyncSender<Job>,
}

impl Engine {
    /// Loads the networks in a thread of their own, and waits for them.
    pub(crate) fn start(load: impl FnOnce() -> Result<Box<dyn Predictor>> + Send + 'static) -> Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let (loaded, wait) = channel();
        let work = move || match load() {
            Ok(predictor) => {
                if loaded.send(Ok(predictor.models())).is_ok() {
                    answer_all(predictor, &jobs);
                }
            }
            Err(error) => drop(loaded.send(Err(error))),
        };
        thread::Builder::new().name("networks".into()).spawn(work)?;
        let models = wait.recv().context("loading the networks failed")??;
        Ok(Self { models, queue })
    }

    pub(crate) fn models(&self) -> &[Model] {
        &self.models
    }

    /// The index of a model by its name; the first without one.
    pub(crate) fn model(&self, name: Option<&str>) -> Answered<usize> {
        let Some(name) = name else { return Ok(0) };
        self.models
            .iter()
            .position(|model| model.name == name)
            .ok_or_else(|| Failure::bad(format!("there is no checkpoint named `{name}` here")))
    }

    pub(crate) async fn predict(&self, question: Question) -> Answered<Answer> {
        self.ask(|reply| Job::Predict(question, reply)).await
    }

    pub(crate) async fn stages(&self, question: Question) -> Answered<Vec<Stage>> {
        self.ask(|reply| Job::Stages(question, reply)).await
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Answered<T> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(job(reply)).map_err(|error| match error {
            TrySendError::Full(_) => Failure::busy(),
            TrySendError::Disconnected(_) => gone(),
        })?;
        Ok(answer.await.map_err(|_| gone())??)
    }
}

fn gone() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the networks are gone; start the program again")
}

fn answer_all(mut predictor: Box<dyn Predictor>, jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Predict(question, reply) => {
                answer(&question, reply, |Question { model, picture, expression }| {
                    predictor.predict(*model, picture, expression)
                })
            }
            Job::Stages(question, reply) => {
                answer(&question, reply, |Question { model, picture, expression }| {
                    predictor.stages(*model, picture, expression)
                })
            }
        }
    }
}

/// Answers unless nobody waits any more. A panic is an error of this question alone.
fn answer<T>(question: &Question, reply: Reply<T>, work: impl FnOnce(&Question) -> Result<T>) {
    if reply.is_closed() {
        return;
    }
    let result = catch_unwind(AssertUnwindSafe(|| work(question)))
        .unwrap_or_else(|panic| Err(anyhow!("{}", command_kit::message(&*panic))));
    // Fails only if nobody waits any more.
    let _ = reply.send(result);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use refcoco::RgbImage;

    use super::*;

    struct Slow(mpsc::Receiver<()>);

    impl Predictor for Slow {
        fn models(&self) -> Vec<Model> {
            vec![Model { name: "slow".into(), threshold: 0.5 }]
        }

        fn predict(&mut self, _: usize, _: &Arc<Picture>, expression: &str) -> Result<Answer> {
            self.0.recv()?;
            assert!(expression != "panic", "a word that panics");
            Ok(Answer { fields: Map::new(), probabilities: Vec::new() })
        }

        fn stages(&mut self, _: usize, _: &Arc<Picture>, _: &str) -> Result<Vec<Stage>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_few_wait_others_are_told_that_it_is_busy_and_a_panic_stops_nothing() {
        let (go, wait) = mpsc::channel();
        let engine = Arc::new(Engine::start(move || Ok(Box::new(Slow(wait)) as Box<dyn Predictor>)).unwrap());
        assert!(engine.model(Some("other")).is_err() && engine.model(None).is_ok_and(|model| model == 0));
        let pixels = RgbImage { width: 1, height: 1, data: vec![0; 3] };
        let picture = Arc::new(Picture { id: String::new(), pixels, is_cut_short: false });
        let question =
            |text: &str| Question { model: 0, picture: Arc::clone(&picture), expression: text.into() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (first, many) = (question("panic"), question("x"));
        let (failed, answers) = runtime.block_on(async {
            let ask = |question: Question| {
                let engine = Arc::clone(&engine);
                tokio::spawn(async move { engine.predict(question).await })
            };
            let failed = ask(first);
            // One more may have left the queue and be waiting in the thread.
            let asked: Vec<_> = (0..QUEUE + 5).map(|_| ask(many.clone())).collect();
            tokio::task::yield_now().await;
            for _ in 0..QUEUE + 6 {
                let _ = go.send(());
            }
            let mut answers = Vec::new();
            for one in asked {
                answers.push(one.await.unwrap().is_ok());
            }
            (failed.await.unwrap(), answers)
        });
        assert!(failed.is_err());
        assert!(answers.iter().any(|ok| *ok), "{answers:?}");
        assert!(runtime.block_on(engine.stages(question("x"))).is_ok());
    }
}
