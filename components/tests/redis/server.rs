//! Servers on the loopback interface, each in a directory of its own, killed by id when the test lets go of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use components::redis::Address;

use crate::client::Client;
use crate::ports::free_port;

/// Where a server program is.
pub fn program(name: &str) -> PathBuf {
    let variable = format!("SEAWALL_{}_BIN", name.to_uppercase());
    let path = std::env::var_os(&variable);
    PathBuf::from(path.unwrap_or_else(|| panic!("{variable} is not set; HINT: make setup, and load its env file")))
}

pub struct Server {
    process: Child,
    pub port: u16,
    pub directory: PathBuf,
}

impl Server {
    /// Starts one, and waits until it answers; with a dump to load, until that is loaded.
    pub fn start(program: &Path, directory: &Path, settings: &str) -> Server {
        Self::start_as(program, directory, settings, &[], free_port())
    }

    pub fn start_as(program: &Path, directory: &Path, settings: &str, arguments: &[&str], port: u16) -> Server {
        std::fs::create_dir_all(directory).unwrap();
        let file = directory.join("server.conf");
        let dir = directory.display();
        let all = format!("bind 127.0.0.1\nport {port}\ndir {dir}\ndaemonize no\n{settings}\n");
        std::fs::write(&file, all).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg(&file).args(arguments).stdin(Stdio::null());
        command.stderr(log.try_clone().unwrap()).stdout(log);
        let mut server = Server {
            process: command.spawn().unwrap(),
            port,
            directory: directory.to_owned(),
        };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = Client::open(self.port).and_then(|mut client| client.try_ask(&[b"PING"]));
            match answer {
                // "No" without a password is also an answer.
                Ok(answer) if !format!("{answer:?}").contains("LOADING") => return,
                _ => assert!(
                    Instant::now() < until && self.process.try_wait().unwrap().is_none(),
                    "{}",
                    self.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> Address {
        Address::Tcp("127.0.0.1".into(), self.port)
    }

    pub fn client(&self) -> Client {
        Client::open(self.port).unwrap()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
