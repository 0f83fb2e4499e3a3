//! Debug forms of the messages that carry secrets: logs show that a secret is there, never what it is.

use std::fmt;

struct Hidden(bool);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "***" } else { "\"\"" })
    }
}

fn hidden(secret: &str) -> Hidden {
    Hidden(!secret.is_empty())
}

impl fmt::Debug for crate::transfer::AuthResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthResponse")
            .field("auth_type", &self.auth_type())
            .field("secret", &hidden(&self.secret))
            .field("username", &self.username)
            .field("expire_at", &self.expire_at)
            .finish()
    }
}

impl fmt::Debug for crate::transfer::RegistryResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A header may be an authorization: names only.
        f.debug_struct("RegistryResolver")
            .field("auth_stream", &self.auth_stream)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("host_dir", &self.host_dir)
            .field("default_scheme", &self.default_scheme)
            .field("http_debug", &self.http_debug())
            .field("logs_stream", &self.logs_stream)
            .finish()
    }
}

#[cfg(feature = "cri")]
impl fmt::Debug for crate::cri::AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &hidden(&self.password))
            .field("auth", &hidden(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn secrets_are_not_printed() {
        let auth = crate::transfer::AuthResponse {
            secret: "hunter2".into(),
            username: "me".into(),
            ..Default::default()
        };
        let shown = format!("{auth:?}");
        assert!(!shown.contains("hunter2") && shown.contains("***") && shown.contains("me"), "{shown}");
        let resolver = crate::transfer::RegistryResolver {
            headers: [("Authorization".to_owned(), "Bearer hunter2".to_owned())].into(),
            ..Default::default()
        };
        let shown = format!("{resolver:?}");
        assert!(!shown.contains("hunter2") && shown.contains("Authorization"), "{shown}");
    }

    #[cfg(feature = "cri")]
    #[test]
    fn cri_secrets_are_not_printed() {
        let auth = crate::cri::AuthConfig {
            password: "hunter2".into(),
            auth: "hunter2".into(),
            identity_token: "hunter2".into(),
            registry_token: "hunter2".into(),
            ..Default::default()
        };
        let request = crate::cri::PullImageRequest { auth: Some(auth), ..Default::default() };
        assert!(!format!("{request:?}").contains("hunter2"));
    }
}
