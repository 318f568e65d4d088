//! Turns panics into errors, see [`command_kit::as_errors`].

pub(crate) use command_kit::{as_errors, message};

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn libtorch_errors_lose_their_frames() {
        let panic = catch_unwind(|| tch::Tensor::from(1.0).matmul(&tch::Tensor::from(2.0))).unwrap_err();
        let message = message(&*panic);
        assert!(message.contains("both arguments to matmul"), "{message}");
        assert!(!message.contains("frame") && !message.contains("unwrap"), "{message}");
        assert_eq!(super::message(&"plain"), "plain");
    }
}
