//! Rendezvous of the processes: rank, world size and address from the launcher's environment variables.

use std::time::Duration;

use crate::Error;

/// How long processes wait for each other if [`TIMEOUT_VARIABLE`] is not set.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// Environment variable with the seconds that processes wait for each other, at the rendezvous and in each operation. More than
/// 24 days count as 24 days.
pub const TIMEOUT_VARIABLE: &str = "TALENT_PROCESS_TIMEOUT";
/// PyTorch's default port.
const DEFAULT_PORT: u16 = 29500;

/// Rank and world size of a process, and the address of the rendezvous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// Rank: number of this process, from 0.
    pub rank: usize,
    /// World size: number of processes.
    pub size: usize,
    /// Local rank: number of this process on its machine, from 0. It is also the number of its GPU.
    pub local_rank: usize,
    /// Host of rank 0.
    pub host: String,
    /// Port of the store on that host.
    pub port: u16,
    /// How long processes wait for each other.
    pub timeout: Duration,
}

impl Rendezvous {
    /// Reads the environment variables of `cargo xtask launch` and torchrun (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`,
    /// `MASTER_PORT`), Open MPI (`OMPI_COMM_WORLD_*`), or a SLURM step (`SLURM_PROCID` and others, only if `SLURM_STEP_ID` is
    /// set: a batch script itself is one process). `None` if no launcher has set any.
    ///
    /// # Errors
    /// When variables are missing or have invalid values.
    pub fn from_environment() -> Result<Option<Self>, Error> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let names: [&str; 3] = if get("RANK").is_some() || get("WORLD_SIZE").is_some() {
            ["RANK", "WORLD_SIZE", "LOCAL_RANK"]
        } else if get("OMPI_COMM_WORLD_SIZE").is_some() {
            ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"]
        } else if get("SLURM_STEP_ID").is_some() && get("SLURM_STEP_NUM_TASKS").is_some() {
            ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"]
        } else {
            return Ok(None);
        };
        let bad = |name: &str, value: &str, expected: &str| {
            Error::Rendezvous(format!("environment: {name}={value:?}, expected {expected}"))
        };
        let number = |name: &str, expected: &str| -> Result<Option<usize>, Error> {
            get(name).map(|value| value.parse().map_err(|_| bad(name, &value, expected))).transpose()
        };
        let needed = |name: &str| {
            number(name, "a whole number")?.ok_or_else(|| {
                Error::Rendezvous(format!(
                    "environment: {name} is missing; start several processes with `cargo xtask launch`"
                ))
            })
        };
        let (rank, size) = (needed(names[0])?, needed(names[1])?);
        if rank >= size {
            return Err(bad(names[0], &rank.to_string(), &format!("less than {}={size}", names[1])));
        }
        let local_rank = number(names[2], "a whole number")?.unwrap_or(rank);
        let host =
            match get("MASTER_ADDR").or_else(|| get("SLURM_STEP_NODELIST").map(|list| first_host(&list))) {
                Some(host) => host,
                None if size == 1 => "127.0.0.1".to_owned(),
                None => {
                    return Err(Error::Rendezvous(
                        "environment: MASTER_ADDR, the host of rank 0, is missing".into(),
                    ));
                }
            };
        let port = match get("MASTER_PORT") {
            Some(text) => text.parse().map_err(|_| bad("MASTER_PORT", &text, "a port"))?,
            // A single process has no other to meet, so any free port will do.
            None if size == 1 => 0,
            None => DEFAULT_PORT,
        };
        let timeout = match number(TIMEOUT_VARIABLE, "seconds")? {
            Some(0) => return Err(bad(TIMEOUT_VARIABLE, "0", "at least 1")),
            Some(seconds) => Duration::from_secs(seconds as u64),
            None => DEFAULT_TIMEOUT,
        };
        Ok(Some(Self { rank, size, local_rank, host, port, timeout }))
    }
}

/// The first host of a SLURM host list: `gpu03` for `gpu[03-04,07],login`.
fn first_host(list: &str) -> String {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    match rest.strip_prefix('[') {
        Some(numbers) => {
            let end = numbers.find([',', '-', ']']).unwrap_or(numbers.len());
            format!("{name}{}", &numbers[..end])
        }
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Rendezvous>, Error> {
        Rendezvous::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn launchers_are_understood() {
        let expected = Rendezvous {
            rank: 3,
            size: 4,
            local_rank: 1,
            host: "node1".into(),
            port: 1234,
            timeout: DEFAULT_TIMEOUT,
        };
        let meeting = [("MASTER_ADDR", "node1"), ("MASTER_PORT", "1234")];
        for names in [
            [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")],
            [
                ("OMPI_COMM_WORLD_RANK", "3"),
                ("OMPI_COMM_WORLD_SIZE", "4"),
                ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ],
        ] {
            assert_eq!(of(&[&names[..], &meeting].concat()).unwrap().as_ref(), Some(&expected));
        }
        let slurm = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "3"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "node[1-2,7]"),
            ("MASTER_PORT", "1234"),
        ];
        assert_eq!(of(&slurm).unwrap(), Some(expected));
        // Without `SLURM_STEP_ID` it is a batch script, which is not a step.
        assert_eq!(of(&slurm[1..]).unwrap(), None);
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap().unwrap().port, 0);
    }

    #[test]
    fn half_an_environment_is_refused_by_name() {
        let message = |variables: &[(&str, &str)]| of(variables).unwrap_err().to_string();
        assert!(message(&[("RANK", "1")]).contains("WORLD_SIZE is missing"));
        assert!(message(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("less than WORLD_SIZE=2"));
        assert!(message(&[("RANK", "x"), ("WORLD_SIZE", "2")]).contains("RANK=\"x\""));
        assert!(message(&[("RANK", "0"), ("WORLD_SIZE", "2")]).contains("MASTER_ADDR"));
        let meeting = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "h")];
        assert!(message(&[&meeting[..], &[("MASTER_PORT", "99999")]].concat()).contains("MASTER_PORT"));
        assert!(message(&[&meeting[..], &[(TIMEOUT_VARIABLE, "0")]].concat()).contains(TIMEOUT_VARIABLE));
    }

    #[test]
    fn short_host_lists() {
        for (list, host) in [("gpu[03-04,07],x", "gpu03"), ("a,b", "a"), ("a", "a"), ("n-1-[7]", "n-1-7")] {
            assert_eq!(first_host(list), host);
        }
    }
}
