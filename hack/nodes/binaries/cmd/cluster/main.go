// Command cluster holds every program a development cluster's node runs, in one binary: linking the Kubernetes
// components together costs 170 MB once instead of 600 MB apart, and one build instead of ten.
//
// The program is chosen by the name it is called by (a link named kubelet runs the kubelet) or by its first argument.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	containerdcommand "github.com/containerd/containerd/v2/cmd/containerd/command"
	ctrapp "github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	helmcommand "helm.sh/helm/v4/pkg/cmd"
	helmkube "helm.sh/helm/v4/pkg/kube"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectlcommand "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	// Plug-ins that register themselves: containerd's own services, JSON logs, client metrics.
	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// programs maps a program's name to what runs it; the returned value is the exit status.
var programs = map[string]func() int{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          cobraProgram(apiserver.NewAPIServerCommand),
	"kube-controller-manager": cobraProgram(controllermanager.NewControllerManagerCommand),
	"kube-scheduler":          cobraProgram(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubelet":                 cobraProgram(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"kube-proxy":              cobraProgram(proxy.NewProxyCommand),
	"containerd":              func() int { return report("containerd", containerdcommand.App().Run(os.Args)) },
	"ctr":                     func() int { return report("ctr", ctrapp.New().Run(os.Args)) },
	"kubectl":                 kubectl,
	"helm":                    helm,
}

func main() {
	name := filepath.Base(os.Args[0])
	if programs[name] == nil && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	run := programs[name]
	if run == nil {
		fmt.Fprintf(os.Stderr, "cluster: no program is called %q: call it by a link's name or name one as the first argument\n", name)
		os.Exit(2)
	}
	os.Exit(run())
}

func cobraProgram(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

func report(program string, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", program, err)
	return 1
}

func kubectl() int {
	logs.GlogSetter(kubectlcommand.GetLogVerbosity(os.Args)) //nolint:errcheck // an odd -v is reported by the command itself
	if err := cli.RunNoErrOutput(kubectlcommand.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err) // prints as kubectl does and exits
	}
	return 0
}

func helm() int {
	helmkube.ManagedFieldsManager = "helm"
	command, err := helmcommand.NewRootCmd(os.Stdout, os.Args[1:], helmcommand.SetupLogging)
	if err == nil {
		err = command.Execute()
	}
	if failed, ok := errors.AsType[helmcommand.CommandError](err); ok {
		return failed.ExitCode
	}
	return report("helm", err)
}
