// check: are these the files that Kubernetes and Compose would take?
//
//	check manifests < manifests.yaml     every document decoded strictly into the types of the Kubernetes API
//	check compose FILE [PROFILE...]      the file loaded as `docker compose config` does; the project is printed as JSON
//
// Exit 0 and nothing on standard error when all is well; 1 and one line a fault otherwise.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	var faults []string
	switch {
	case len(os.Args) == 2 && os.Args[1] == "manifests":
		faults = manifests(os.Stdin)
	case len(os.Args) >= 3 && os.Args[1] == "compose":
		faults = compose(os.Args[2], os.Args[3:])
	default:
		faults = []string{"usage: check manifests | check compose FILE [PROFILE...]"}
	}
	if len(faults) > 0 {
		fmt.Fprintln(os.Stderr, strings.Join(faults, "\n"))
		os.Exit(1)
	}
}

// manifests decodes every document into its Go type; an unknown or repeated field, an unknown kind and a value of a
// wrong type are faults.
func manifests(input io.Reader) []string {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, batchv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
		rbacv1.AddToScheme, monitoring.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return []string{err.Error()}
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	reader := yaml.NewYAMLReader(bufio.NewReader(input))
	var faults []string
	for number := 1; ; number++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return faults
		}
		if err != nil {
			return append(faults, fmt.Sprintf("document %d: %v", number, err))
		}
		if isEmpty(document) {
			continue
		}
		if _, kind, err := decoder.Decode(document, nil, nil); err != nil {
			faults = append(faults, fmt.Sprintf("document %d (%v): %v", number, kind, err))
		}
	}
}

func isEmpty(document []byte) bool {
	for _, line := range bytes.Split(document, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func compose(file string, profiles []string) []string {
	options, err := cli.NewProjectOptions(
		[]string{file}, cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv, cli.WithInterpolation(true),
		cli.WithConsistency(true), cli.WithDefaultProfiles(profiles...),
	)
	if err != nil {
		return []string{err.Error()}
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return []string{err.Error()}
	}
	printed, err := json.MarshalIndent(project, "", "  ")
	if err != nil {
		return []string{err.Error()}
	}
	fmt.Println(string(printed))
	return nil
}
