// A registry in memory that answers OCI 1.1 referrers: cue-labs' own, which leaves out of a referrer's descriptor what a
// client chooses by. That is read from its manifest here.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net/http"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// described answers referrers with their artifact types and annotations.
type described struct{ ociregistry.Interface }

func (r described) Referrers(ctx context.Context, repo string, subject ociregistry.Digest, artifactType string) ociregistry.Seq[ociregistry.Descriptor] {
	bare := r.Interface.Referrers(ctx, repo, subject, artifactType)
	return func(yield func(ociregistry.Descriptor, error) bool) {
		bare(func(found ociregistry.Descriptor, err error) bool {
			if err == nil {
				err = r.describe(ctx, repo, &found)
			}
			return yield(found, err)
		})
	}
}

// describe completes a descriptor from the manifest that it is of; an index has no config, and its type is its own.
func (r described) describe(ctx context.Context, repo string, found *ociregistry.Descriptor) error {
	body, err := r.GetManifest(ctx, repo, found.Digest)
	if err != nil {
		return err
	}
	defer body.Close()
	var manifest ocispec.Manifest
	if err := json.NewDecoder(body).Decode(&manifest); err != nil {
		return err
	}
	found.ArtifactType, found.Annotations = manifest.ArtifactType, manifest.Annotations
	if found.ArtifactType == "" {
		found.ArtifactType = manifest.Config.MediaType
	}
	return nil
}

func main() {
	address := flag.String("address", "127.0.0.1:5000", "host and port to listen on")
	referrers := flag.String("referrers", "full", "full, bare (no artifact types, no annotations) or none (404)")
	flag.Parse()
	var backend ociregistry.Interface = ocimem.New()
	if *referrers == "full" {
		backend = described{backend}
	}
	options := ociserver.Options{DisableReferrersAPI: *referrers == "none"}
	log.Fatal(http.ListenAndServe(*address, ociserver.New(backend, &options)))
}
