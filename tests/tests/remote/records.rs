//! Namespaces, containers, images, leases and sandboxes.

use async_trait::async_trait;
use tonic::transport::Channel;
use windlass_api::convert::{any, descriptor, runtime};
use windlass_api::services::{containers, images, leases, namespaces, sandbox as sandboxes};
use windlass_api::types;
use windlass_core::container::{self, Container, Runtime};
use windlass_core::image::{self, Image};
use windlass_core::lease::{self, Lease, Resource};
use windlass_core::namespace::{self, Namespace};
use windlass_core::sandbox::{self, Sandbox};
use windlass_core::{Context, Descriptor, FieldMask, Filters, Labels, Result};

use super::{failed, mask, on, time};

/// All record stores behind one channel.
#[derive(Clone)]
pub struct Records(pub Channel);

#[async_trait]
impl namespace::Store for Records {
    async fn get(&self, name: &str) -> Result<Namespace> {
        let request = namespaces::GetNamespaceRequest { name: name.into() };
        let found = self.namespaces().get(request).await.map_err(failed)?.into_inner().namespace;
        Ok(namespace(found.expect("a namespace")))
    }

    async fn list(&self) -> Result<Vec<Namespace>> {
        let all =
            self.namespaces().list(namespaces::ListNamespacesRequest::default()).await.map_err(failed)?;
        Ok(all.into_inner().namespaces.into_iter().map(namespace).collect())
    }

    async fn create(&self, n: Namespace) -> Result<Namespace> {
        let namespace_ = Some(namespaces::Namespace { name: n.name, labels: n.labels });
        let request = namespaces::CreateNamespaceRequest { namespace: namespace_ };
        let made = self.namespaces().create(request).await.map_err(failed)?.into_inner().namespace;
        Ok(namespace(made.expect("a namespace")))
    }

    async fn update(&self, n: Namespace, fields: &FieldMask) -> Result<Namespace> {
        let namespace_ = Some(namespaces::Namespace { name: n.name, labels: n.labels });
        let request = namespaces::UpdateNamespaceRequest { namespace: namespace_, update_mask: mask(fields) };
        let made = self.namespaces().update(request).await.map_err(failed)?.into_inner().namespace;
        Ok(namespace(made.expect("a namespace")))
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let request = namespaces::DeleteNamespaceRequest { name: name.into() };
        self.namespaces().delete(request).await.map_err(failed).map(drop)
    }
}

fn namespace(n: namespaces::Namespace) -> Namespace {
    Namespace { name: n.name, labels: n.labels }
}

impl Records {
    fn namespaces(&self) -> namespaces::namespaces_client::NamespacesClient<Channel> {
        namespaces::namespaces_client::NamespacesClient::new(self.0.clone())
    }

    fn containers(&self) -> containers::containers_client::ContainersClient<Channel> {
        containers::containers_client::ContainersClient::new(self.0.clone())
    }

    fn images(&self) -> images::images_client::ImagesClient<Channel> {
        images::images_client::ImagesClient::new(self.0.clone())
    }

    fn leases(&self) -> leases::leases_client::LeasesClient<Channel> {
        leases::leases_client::LeasesClient::new(self.0.clone())
    }

    fn sandboxes(&self) -> sandboxes::store_client::StoreClient<Channel> {
        sandboxes::store_client::StoreClient::new(self.0.clone())
    }
}

fn container_to_wire(c: Container) -> containers::Container {
    containers::Container {
        id: c.id,
        labels: c.labels,
        image: c.image,
        runtime: Some(runtime::to_wire(c.runtime)),
        spec: c.spec.map(any::to_wire),
        snapshotter: c.snapshotter,
        snapshot_key: c.snapshot_key,
        extensions: c.extensions.into_iter().map(|(k, v)| (k, any::to_wire(v))).collect(),
        sandbox: c.sandbox_id,
        ..Default::default()
    }
}

fn container(c: containers::Container) -> Container {
    Container {
        id: c.id,
        labels: c.labels,
        image: c.image,
        runtime: runtime::from_wire(c.runtime.unwrap_or_default()),
        spec: c.spec.map(any::from_wire),
        snapshotter: c.snapshotter,
        snapshot_key: c.snapshot_key,
        created_at: time(c.created_at),
        updated_at: time(c.updated_at),
        extensions: c.extensions.into_iter().map(|(k, v)| (k, any::from_wire(v))).collect(),
        sandbox_id: c.sandbox,
    }
}

#[async_trait]
impl container::Store for Records {
    async fn get(&self, cx: &Context, id: &str) -> Result<Container> {
        let request = on(cx, containers::GetContainerRequest { id: id.into() });
        let found = self.containers().get(request).await.map_err(failed)?.into_inner().container;
        Ok(container(found.expect("a container")))
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Container>> {
        let request = || on(cx, containers::ListContainersRequest { filters: filters.texts().to_vec() });
        let all = self.containers().list(request()).await.map_err(failed)?.into_inner().containers;
        let mut stream = self.containers().list_stream(request()).await.map_err(failed)?.into_inner();
        let mut streamed = Vec::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            streamed.extend(message.container);
        }
        assert_eq!(all, streamed, "both lists say the same");
        Ok(all.into_iter().map(container).collect())
    }

    async fn create(&self, cx: &Context, c: Container) -> Result<Container> {
        let request = on(cx, containers::CreateContainerRequest { container: Some(container_to_wire(c)) });
        let made = self.containers().create(request).await.map_err(failed)?.into_inner().container;
        Ok(container(made.expect("a container")))
    }

    async fn update(&self, cx: &Context, c: Container, fields: &FieldMask) -> Result<Container> {
        let container_ = Some(container_to_wire(c));
        let request =
            on(cx, containers::UpdateContainerRequest { container: container_, update_mask: mask(fields) });
        let made = self.containers().update(request).await.map_err(failed)?.into_inner().container;
        Ok(container(made.expect("a container")))
    }

    async fn delete(&self, cx: &Context, id: &str) -> Result<()> {
        let request = on(cx, containers::DeleteContainerRequest { id: id.into() });
        self.containers().delete(request).await.map_err(failed).map(drop)
    }
}

/// A time that a caller of core sets is, over the wire, one of its own.
fn epoch(i: &Image) -> Option<prost_types::Timestamp> {
    (i.updated_at != std::time::UNIX_EPOCH).then(|| windlass_api::convert::time::to_wire(i.updated_at))
}

fn image_to_wire(i: Image) -> images::Image {
    let target = Some(descriptor::to_wire(&i.target));
    images::Image { name: i.name, labels: i.labels, target, ..Default::default() }
}

fn image(i: images::Image) -> Image {
    Image {
        name: i.name,
        labels: i.labels,
        target: descriptor::required("target", i.target).expect("a target"),
        created_at: time(i.created_at),
        updated_at: time(i.updated_at),
    }
}

#[async_trait]
impl image::Store for Records {
    async fn get(&self, cx: &Context, name: &str) -> Result<Image> {
        let request = on(cx, images::GetImageRequest { name: name.into() });
        let found = self.images().get(request).await.map_err(failed)?.into_inner().image;
        Ok(image(found.expect("an image")))
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Image>> {
        let request = on(cx, images::ListImagesRequest { filters: filters.texts().to_vec() });
        let all = self.images().list(request).await.map_err(failed)?.into_inner().images;
        Ok(all.into_iter().map(image).collect())
    }

    async fn create(&self, cx: &Context, i: Image) -> Result<Image> {
        let source_date_epoch = epoch(&i);
        let request = images::CreateImageRequest { image: Some(image_to_wire(i)), source_date_epoch };
        let made = self.images().create(on(cx, request)).await.map_err(failed)?.into_inner().image;
        Ok(image(made.expect("an image")))
    }

    async fn update(&self, cx: &Context, i: Image, fields: &FieldMask) -> Result<Image> {
        let source_date_epoch = epoch(&i);
        let (image_, update_mask) = (Some(image_to_wire(i)), mask(fields));
        let request = images::UpdateImageRequest { image: image_, update_mask, source_date_epoch };
        let made = self.images().update(on(cx, request)).await.map_err(failed)?.into_inner().image;
        Ok(image(made.expect("an image")))
    }

    async fn delete(&self, cx: &Context, name: &str, target: Option<&Descriptor>) -> Result<()> {
        let request = images::DeleteImageRequest {
            name: name.into(),
            sync: false,
            target: target.map(descriptor::to_wire),
        };
        self.images().delete(on(cx, request)).await.map_err(failed).map(drop)
    }
}

#[async_trait]
impl lease::Manager for Records {
    async fn create(&self, cx: &Context, id: &str, labels: Labels) -> Result<Lease> {
        if id.is_empty() {
            // Over the wire an empty id asks for one that the daemon makes up.
            return Err(windlass_core::Error::invalid("lease id must not be empty"));
        }
        let request = on(cx, leases::CreateRequest { id: id.into(), labels });
        Ok(lease_of(
            self.leases().create(request).await.map_err(failed)?.into_inner().lease.expect("a lease"),
        ))
    }

    async fn delete(&self, cx: &Context, id: &str) -> Result<()> {
        let request = on(cx, leases::DeleteRequest { id: id.into(), sync: false });
        self.leases().delete(request).await.map_err(failed).map(drop)
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Lease>> {
        let request = on(cx, leases::ListRequest { filters: filters.texts().to_vec() });
        let all = self.leases().list(request).await.map_err(failed)?.into_inner().leases;
        Ok(all.into_iter().map(lease_of).collect())
    }

    async fn add_resource(&self, cx: &Context, lease: &str, resource: Resource) -> Result<()> {
        let resource = Some(leases::Resource { id: resource.id, r#type: resource.kind });
        let request = on(cx, leases::AddResourceRequest { id: lease.into(), resource });
        self.leases().add_resource(request).await.map_err(failed).map(drop)
    }

    async fn delete_resource(&self, cx: &Context, lease: &str, resource: Resource) -> Result<()> {
        let resource = Some(leases::Resource { id: resource.id, r#type: resource.kind });
        let request = on(cx, leases::DeleteResourceRequest { id: lease.into(), resource });
        self.leases().delete_resource(request).await.map_err(failed).map(drop)
    }

    async fn list_resources(&self, cx: &Context, lease: &str) -> Result<Vec<Resource>> {
        let request = on(cx, leases::ListResourcesRequest { id: lease.into() });
        let all = self.leases().list_resources(request).await.map_err(failed)?.into_inner().resources;
        Ok(all.into_iter().map(|r| Resource { id: r.id, kind: r.r#type }).collect())
    }
}

fn lease_of(l: leases::Lease) -> Lease {
    Lease { id: l.id, created_at: time(l.created_at), labels: l.labels }
}

fn sandbox_to_wire(s: Sandbox) -> types::Sandbox {
    types::Sandbox {
        sandbox_id: s.id,
        runtime: Some(types::sandbox::Runtime {
            name: s.runtime.name,
            options: s.runtime.options.map(any::to_wire),
        }),
        spec: s.spec.map(any::to_wire),
        labels: s.labels,
        extensions: s.extensions.into_iter().map(|(k, v)| (k, any::to_wire(v))).collect(),
        sandboxer: s.sandboxer,
        ..Default::default()
    }
}

fn sandbox_of(s: types::Sandbox) -> Sandbox {
    let runtime = s.runtime.unwrap_or_default();
    Sandbox {
        id: s.sandbox_id,
        labels: s.labels,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(any::from_wire) },
        spec: s.spec.map(any::from_wire),
        sandboxer: s.sandboxer,
        created_at: time(s.created_at),
        updated_at: time(s.updated_at),
        extensions: s.extensions.into_iter().map(|(k, v)| (k, any::from_wire(v))).collect(),
    }
}

#[async_trait]
impl sandbox::Store for Records {
    async fn get(&self, cx: &Context, id: &str) -> Result<Sandbox> {
        let request = on(cx, sandboxes::StoreGetRequest { sandbox_id: id.into() });
        Ok(sandbox_of(
            self.sandboxes().get(request).await.map_err(failed)?.into_inner().sandbox.expect("a sandbox"),
        ))
    }

    async fn list(&self, cx: &Context, filters: &Filters) -> Result<Vec<Sandbox>> {
        let request = on(cx, sandboxes::StoreListRequest { filters: filters.texts().to_vec() });
        let all = self.sandboxes().list(request).await.map_err(failed)?.into_inner().list;
        Ok(all.into_iter().map(sandbox_of).collect())
    }

    async fn create(&self, cx: &Context, s: Sandbox) -> Result<Sandbox> {
        let request = on(cx, sandboxes::StoreCreateRequest { sandbox: Some(sandbox_to_wire(s)) });
        Ok(sandbox_of(
            self.sandboxes().create(request).await.map_err(failed)?.into_inner().sandbox.expect("a sandbox"),
        ))
    }

    async fn update(&self, cx: &Context, s: Sandbox, fields: &FieldMask) -> Result<Sandbox> {
        let request =
            sandboxes::StoreUpdateRequest { sandbox: Some(sandbox_to_wire(s)), fields: fields.0.clone() };
        let made = self.sandboxes().update(on(cx, request)).await.map_err(failed)?.into_inner().sandbox;
        Ok(sandbox_of(made.expect("a sandbox")))
    }

    async fn delete(&self, cx: &Context, id: &str) -> Result<()> {
        let request = on(cx, sandboxes::StoreDeleteRequest { sandbox_id: id.into() });
        self.sandboxes().delete(request).await.map_err(failed).map(drop)
    }
}
