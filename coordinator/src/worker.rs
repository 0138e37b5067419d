//! A worker as the coordinator keeps it.

use espalier_job::Device;
use espalier_proto::v1::{DeviceKind, Register};
use serde::{Deserialize, Serialize};

/// A worker as stored under `workers/<id>`, and what it said of itself when it registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerRecord {
    /// Identity, kept over restarts.
    pub worker_id: String,
    /// The process.
    pub incarnation: String,
    /// Host at which its ranks are reached.
    pub rendezvous_host: String,
    /// Kind of its devices.
    pub device: Device,
    /// Ranks it can run at a time.
    pub slots: u32,
    /// Version of its program.
    pub version: String,
    /// When it last registered, milliseconds since 1970.
    pub registered: u64,
}

/// Most ranks on a worker.
const MAX_SLOTS: u32 = 1024;

impl WorkerRecord {
    /// Reads a registration.
    ///
    /// # Errors
    /// Every wrong field, with what is wrong.
    pub fn from_register(register: &Register, wall: u64) -> Result<Self, Vec<(String, String)>> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, field: &str, message: &str| {
            if !ok {
                problems.push((format!("register.{field}"), message.to_owned()));
            }
        };
        check(
            is_name(&register.worker_id),
            "worker_id",
            "must be 1 to 63 letters, digits, `-`, `_` or `.`",
        );
        check(
            is_name(&register.incarnation),
            "incarnation",
            "must be 1 to 63 letters, digits, `-`, `_` or `.`",
        );
        check(
            (1..=255).contains(&register.rendezvous_host.len()),
            "rendezvous_host",
            "must be a host or address of 1 to 255 characters",
        );
        check(
            (1..=MAX_SLOTS).contains(&register.slots),
            "slots",
            "must be 1 to 1024",
        );
        check(
            register.version.len() <= 64,
            "version",
            "must be at most 64 characters",
        );
        let device = match register.device() {
            DeviceKind::Cpu => Device::Cpu,
            DeviceKind::Cuda => Device::Cuda,
            DeviceKind::Unspecified => {
                check(
                    false,
                    "device",
                    "must be DEVICE_KIND_CPU or DEVICE_KIND_CUDA",
                );
                Device::Cpu
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            worker_id: register.worker_id.clone(),
            incarnation: register.incarnation.clone(),
            rendezvous_host: register.rendezvous_host.clone(),
            device,
            slots: register.slots,
            version: register.version.clone(),
            registered: wall,
        })
    }
}

/// The device kind on the wire.
pub(crate) fn device_wire(device: Device) -> DeviceKind {
    match device {
        Device::Cpu => DeviceKind::Cpu,
        Device::Cuda => DeviceKind::Cuda,
    }
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_named() {
        let problems = WorkerRecord::from_register(&Register::default(), 0).unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "register.worker_id",
                "register.incarnation",
                "register.rendezvous_host",
                "register.slots",
                "register.device"
            ]
        );
    }
}
