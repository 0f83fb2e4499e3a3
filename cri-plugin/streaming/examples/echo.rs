//! A streaming server without containers, for clients to be tried against.
//!
//! It prints the address of a control connection, on which each line of JSON gets one line back:
//! `{"exec": {"cmd": ["cat"], "stdin": true, ...}}`, `{"attach": {...}}` and `{"forward": {"ports": [80]}}` get a URL,
//! `{"idle": {}}` gets the number of open descriptors once no handler runs any more, `{"told": N}` answers when N
//! commands were told that their client had gone.
//!
//! Usage: `echo [--tls CERT KEY]`; it ends with its standard input.

use std::sync::Arc;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use windlass_streaming::{Attach, Exec, Server, Settings, Tls};

mod handler;

use handler::Echo;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Streams {
    container: String,
    cmd: Vec<String>,
    tty: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Exec(Streams),
    Attach(Streams),
    Forward { ports: Vec<u16> },
    Idle {},
    Told(usize),
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tls = match arguments.as_slice() {
        [flag, cert, key] if flag == "--tls" => Some(Tls::Files { cert: cert.into(), key: key.into() }),
        _ => None,
    };
    let echo = Echo::default();
    let settings = Settings { tls, ..Settings::default() };
    let server = Arc::new(Server::start(settings, Arc::new(echo.clone())).await?);
    let control = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", control.local_addr()?);
    let serve = async {
        loop {
            let (stream, _) = control.accept().await?;
            tokio::spawn(orders(stream, server.clone(), echo.clone()));
        }
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // However it ends.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.send(())
    });
    tokio::select! {
        failed = serve => failed,
        _ = end => {
            server.close().await;
            Ok(())
        }
    }
}

async fn orders(stream: TcpStream, server: Arc<Server>, echo: Echo) -> Result<(), AnyError> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match order(serde_json::from_str(&line)?, &server, &echo).await {
            Ok(answer) => answer,
            Err(error) => format!("error: {error}"),
        };
        write.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn order(order: Order, server: &Server, echo: &Echo) -> Result<String, AnyError> {
    Ok(match order {
        Order::Exec(s) => server.exec_url(Exec {
            container_id: s.container,
            cmd: s.cmd,
            tty: s.tty,
            stdin: s.stdin,
            stdout: s.stdout,
            stderr: s.stderr,
        })?,
        Order::Attach(s) => server.attach_url(Attach {
            container_id: s.container,
            tty: s.tty,
            stdin: s.stdin,
            stdout: s.stdout,
            stderr: s.stderr,
        })?,
        Order::Forward { ports } => server.port_forward_url("sandbox", &ports)?,
        Order::Idle {} => {
            echo.running().wait_for(|running| *running == 0).await?;
            std::fs::read_dir("/proc/self/fd")?.count().to_string()
        }
        Order::Told(count) => {
            echo.told().wait_for(|told| *told >= count).await?;
            "told".to_owned()
        }
    })
}
