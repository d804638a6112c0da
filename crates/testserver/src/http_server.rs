//! The HTTP side: one line about itself or about the client for each path.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{Error, health};

/// Serves on all addresses of both families.
pub async fn serve(port: u16, mode: &'static str) -> Result<(), Error> {
    let listener = listen(port).map_err(|source| Error::Listen { port, transport: "HTTP", source })?;
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, client)) = accepted else { continue };
        let service = service_fn(move |request| async move { Ok::<_, Infallible>(respond(&request, client, mode)) });
        connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, port).into();
    let socket = match Socket::new(Domain::IPV6, Type::STREAM, None) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            socket.set_reuse_address(true)?;
            socket.bind(&any.into())?;
            socket
        }
        // A kernel without IPv6.
        Err(_) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
            socket
        }
    };
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn respond(request: &Request<Incoming>, client: SocketAddr, mode: &str) -> Response<Full<Bytes>> {
    let path = if mode == "serve-hostname" { "/hostname" } else { request.uri().path() };
    let (status, text) = match path {
        "/" => (StatusCode::OK, format!("hello from {}\n", hostname())),
        "/hostname" | "/hostName" => (StatusCode::OK, hostname()),
        "/clientip" => (StatusCode::OK, SocketAddr::new(client.ip().to_canonical(), client.port()).to_string()),
        "/echo" => (StatusCode::OK, query(request, "msg").unwrap_or_default()),
        "/env" => (StatusCode::OK, std::env::vars().map(|(n, v)| format!("{n}={v}\n")).collect()),
        "/healthz" if health::healthy() => (StatusCode::OK, "OK".to_owned()),
        "/healthz" => (StatusCode::SERVICE_UNAVAILABLE, "told to fail".to_owned()),
        "/healthz/fail" | "/healthz/pass" => {
            health::set(path.ends_with("pass"));
            (StatusCode::OK, "done".to_owned())
        }
        "/exit" => std::process::exit(query(request, "code").and_then(|c| c.parse().ok()).unwrap_or(0)),
        _ => {
            let paths =
                "/, /hostname, /clientip, /echo?msg=, /env, /healthz, /healthz/fail, /healthz/pass, /exit?code=";
            (StatusCode::NOT_FOUND, format!("the paths here are {paths}\n"))
        }
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

fn query(request: &Request<Incoming>, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.replace('+', " "))
}

/// The kernel's, which is the pod's own.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|n| n.trim().to_owned()).unwrap_or_default()
}
