use tch::Tensor;

use crate::shim;

/// Attaches a custom backward pass to a value (`torch.autograd.Function` in PyTorch). The value is computed beforehand, outside
/// autograd. If no input requires a gradient, the value is returned unchanged. Second derivatives are not defined.
///
/// - inputs: tensors that the value depends on
/// - gradient: maps the gradient of the value to the gradients of the inputs, in their order
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
/// When libtorch refuses the tensors, like tch's own operations. A panic inside `gradient` or a wrong number of results makes
/// the backward pass fail.
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
