//! Lets this package's programs find libtorch.

fn main() {
    libtorch_build::link_programs();
}
