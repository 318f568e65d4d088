use tch::Tensor;

use crate::shim;

/// A value whose gradient the caller computes, when the backward pass asks for it. The value itself is computed outside
/// autograd; where no input has a gradient it is returned as it is. Second derivatives are not defined.
///
/// - inputs: what the value is differentiable in
/// - gradient: from the derivative of a loss by the value to those by the inputs, in their order
///
/// ```
/// use tch::{Kind, Tensor};
/// let x = Tensor::from_slice(&[3.0_f64]).set_requires_grad(true);
/// let square = tch::no_grad(|| x.square());
/// let kept = x.detach();
/// let y = torch_ext::custom_gradient(&[&x], square, move |by_y| vec![by_y * &kept * 2.0]);
/// y.sum(Kind::Double).backward();
/// assert_eq!(f64::try_from(x.grad()).unwrap(), 6.0);
/// ```
///
/// # Panics
/// Like tch's own operations, when libtorch refuses the tensors. A panic inside `gradient`, or a wrong number of results,
/// makes the backward pass fail.
pub fn custom_gradient(
    inputs: &[&Tensor],
    value: Tensor,
    gradient: impl Fn(&Tensor) -> Vec<Tensor> + Send + 'static,
) -> Tensor {
    if inputs.iter().all(|input| !input.requires_grad()) {
        return value;
    }
    let inputs: Vec<Tensor> = inputs.iter().map(|input| input.shallow_clone()).collect();
    shim::custom_gradient(&inputs, &value, Box::new(gradient)).unwrap_or_else(|error| panic!("{error}"))
}
