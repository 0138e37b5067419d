use std::process::{Command, Output};

/// Hosts of this machine: network namespaces with addresses of their own, on one switch. The test itself
/// is on the switch too.
pub(crate) struct Network {
    /// Of all names: no two tests share a device.
    prefix: String,
    hosts: Vec<String>,
}

impl Network {
    /// # Errors
    /// Why this machine cannot have them; what had been made is removed.
    pub(crate) fn new(hosts: Vec<String>) -> Result<Self, String> {
        let network = Self {
            prefix: format!("esp{}", std::process::id() % 100_000),
            hosts,
        };
        let switch = network.switch();
        ip(&["link", "add", &switch, "type", "bridge"])?;
        ip(&[
            "addr",
            "add",
            &format!("{}/24", address(254)),
            "dev",
            &switch,
        ])?;
        ip(&["link", "set", &switch, "up"])?;
        for index in 0..network.hosts.len() {
            network.add(index)?;
        }
        Ok(network)
    }

    fn add(&self, index: usize) -> Result<(), String> {
        let (space, port) = (self.space(index), self.port(index));
        ip(&["netns", "add", &space])?;
        ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space,
        ])?;
        ip(&["link", "set", &port, "master", &self.switch(), "up"])?;
        let within = |args: &[&str]| ip(&[&["-netns", &space][..], args].concat());
        within(&[
            "addr",
            "add",
            &format!("{}/24", address(index)),
            "dev",
            "eth0",
        ])?;
        within(&["link", "set", "eth0", "up"])?;
        within(&["link", "set", "lo", "up"])
    }

    /// Where the others reach a host.
    pub(crate) fn address(&self, host: &str) -> String {
        address(self.index(host))
    }

    /// A program that runs on a host. It is the process that the command starts, not a child of that.
    pub(crate) fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        let space = self.space(self.index(host));
        command.args(["netns", "exec", &space]).arg(program);
        command
    }

    /// Takes a host's cable out of the switch: no connection is told, packets go nowhere.
    pub(crate) fn cut(&self, host: &str) {
        self.must(&["link", "set", &self.port(self.index(host)), "nomaster"]);
    }

    /// Puts it back.
    pub(crate) fn mend(&self, host: &str) {
        let port = self.port(self.index(host));
        self.must(&["link", "set", &port, "master", &self.switch()]);
    }

    /// Keeps hosts from each other, or no longer; all else reaches them as before.
    pub(crate) fn part(&self, hosts: &[String], apart: bool) {
        for host in hosts {
            let port = self.port(self.index(host));
            let isolated = if apart { "on" } else { "off" };
            self.must(&[
                "link",
                "set",
                "dev",
                &port,
                "type",
                "bridge_slave",
                "isolated",
                isolated,
            ]);
        }
    }

    #[track_caller]
    fn must(&self, args: &[&str]) {
        ip(args).unwrap_or_else(|error| panic!("{error}"));
    }

    fn index(&self, host: &str) -> usize {
        let place = self.hosts.iter().position(|name| name == host);
        place.unwrap_or_else(|| panic!("there is no host {host}"))
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    fn port(&self, index: usize) -> String {
        format!("{}-{index}", self.prefix)
    }

    fn space(&self, index: usize) -> String {
        format!("{}-{}", self.prefix, self.hosts[index])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was never made cannot be removed.
        for index in 0..self.hosts.len() {
            let _ = ip(&["netns", "del", &self.space(index)]);
        }
        let _ = ip(&["link", "del", &self.switch()]);
    }
}

fn address(index: usize) -> String {
    // A host's part of an address is not 0.
    format!("10.213.77.{}", if index == 254 { 254 } else { index + 1 })
}

fn ip(args: &[&str]) -> Result<(), String> {
    let ran = Command::new("ip").args(args).output();
    let Output { status, stderr, .. } = ran.map_err(|error| format!("running ip: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(format!("ip {}: {}", args.join(" "), said.trim()))
}
