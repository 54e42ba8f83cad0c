package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	auditpolicy "k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func apis() []scenario {
	return []scenario{
		{
			name: "grpc", ports: []int{50051}, labels: []label{{"tcp", 50051, "grpc", "grpc.health.v1.Health"}},
			made: []string{"google.golang.org/grpc"},
			serve: func(context.Context, string) error {
				l, err := net.Listen("tcp", serverIP+":50051")
				if err != nil {
					return err
				}
				s := grpc.NewServer()
				grpc_health_v1.RegisterHealthServer(s, health.NewServer())
				return s.Serve(l)
			},
			call: func(ctx context.Context) error {
				c, err := grpc.NewClient(serverIP+":50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = grpc_health_v1.NewHealthClient(c).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
				return err
			},
		},
		{
			name: "docker", ports: []int{2375}, labels: []label{{"tcp", 2375, "http", "docker"}},
			made: []string{"docker.io"}, note: "docker CLI 28.2.2: version, ps",
			serve: func(ctx context.Context, dir string) error {
				return execute(ctx, dir, nil, "dockerd", "-H", "tcp://"+serverIP+":2375", "--tls=false", "--bridge=none", "--iptables=false", "--ip6tables=false",
					"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"))
			},
			call: func(ctx context.Context) error {
				for _, verb := range []string{"version", "ps"} {
					c := exec.CommandContext(ctx, "docker", "-H", "tcp://"+serverIP+":2375", verb)
					c.Stderr = os.Stderr
					if err := c.Run(); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "registry", ports: []int{5000}, labels: []label{{"tcp", 5000, "http", "registry"}},
			made: []string{"docker-registry", "github.com/google/go-containerregistry"},
			serve: func(ctx context.Context, dir string) error {
				conf := filepath.Join(dir, "config.yml")
				text := "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: " + dir + "\nhttp:\n  addr: " + serverIP + ":5000\n  headers:\n    X-Content-Type-Options: [nosniff]\n"
				if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
					return err
				}
				return execute(ctx, dir, nil, "docker-registry", "serve", conf)
			},
			call: func(ctx context.Context) error {
				image, err := random.Image(64, 1)
				if err != nil {
					return err
				}
				ref, err := name.ParseReference(serverIP+":5000/shop/web:1", name.Insecure)
				if err != nil {
					return err
				}
				plain := remote.WithTransport(plainTransport{})
				if err := remote.Write(ref, image, remote.WithContext(ctx), plain); err != nil {
					return err
				}
				_, err = remote.Head(ref, remote.WithContext(ctx), plain)
				return err
			},
		},
		{
			name: "kubernetes", ports: []int{8080}, labels: []label{{"tcp", 8080, "http", "kubernetes"}},
			made: []string{"k8s.io/apiserver", "k8s.io/client-go"}, note: "the generic API server, without resources of its own",
			serve: apiserver,
			call: func(ctx context.Context) error {
				c, err := kubernetes.NewForConfig(&rest.Config{Host: "http://" + serverIP + ":8080"})
				if err != nil {
					return err
				}
				if _, err := c.Discovery().ServerVersion(); err != nil {
					return err
				}
				if _, err := c.Discovery().ServerGroups(); err != nil {
					return err
				}
				_, _ = c.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{}) // not found
				return nil
			},
		},
	}
}

// plainTransport keeps the client from trying TLS first.
type plainTransport struct{}

func (plainTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return nil, errors.New("no TLS here")
	}
	return http.DefaultTransport.RoundTrip(r)
}

func apiserver(ctx context.Context, _ string) error {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.Unversioned)
	config := genericapiserver.NewConfig(serializer.NewCodecFactory(scheme))
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.ExternalAddress = serverIP + ":8080"
	config.LoopbackClientConfig = &rest.Config{Host: "http://" + serverIP + ":8080"}
	config.Authentication.Authenticator = authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: "shop", Groups: []string{user.AllAuthenticated}}}, true, nil
	})
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	config.AuditPolicyRuleEvaluator = auditpolicy.NewFakePolicyRuleEvaluator(auditinternal.LevelMetadata, nil)
	config.AuditBackend = audit.Union()
	server, err := config.Complete(nil).New("record", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	prepared := server.PrepareRun()
	s := http.Server{Addr: serverIP + ":8080", Handler: prepared.Handler, ReadHeaderTimeout: time.Second}
	return s.ListenAndServe()
}
