//! Four members of a process group sum a tensor over TCP. Here they are threads; processes that a launcher starts use
//! `Rendezvous::from_environment`. `cargo run --release --package c10d --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Duration;

use c10d::{Error, Group, Reduce, Rendezvous};
use tch::{Device, Tensor};

const SIZE: usize = 4;

fn member(rank: usize, port: u16) -> Result<(f64, usize), Error> {
    let timeout = Duration::from_secs(20);
    let meeting = Rendezvous { rank, size: SIZE, local_rank: rank, host: "127.0.0.1".into(), port, timeout };
    let group = Group::join(meeting, Device::Cpu, &Default::default())?;
    let mut xs = Tensor::from_slice(&[rank as f32 + 1.0]);
    group.all_reduce(&mut xs, Reduce::Sum)?;
    let gathered = group.all_gather(&Tensor::from_slice(&[rank as i64]))?;
    group.barrier()?;
    Ok((xs.double_value(&[0]), gathered.len()))
}

fn main() -> anyhow::Result<()> {
    // A free port: the one that the system picks.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let members: Vec<_> = (0..SIZE).map(|rank| std::thread::spawn(move || member(rank, port))).collect();
    for (rank, member) in members.into_iter().enumerate() {
        let (sum, n) = member.join().map_err(|_| anyhow::anyhow!("member {rank} panicked"))??;
        println!("c10d: rank {rank} of {SIZE}: 1 + 2 + 3 + 4 = {sum}, gathered {n} tensors");
    }
    Ok(())
}
