package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
)

func newStores(a *app) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "stores [flags] [STORE…]",
		GroupID: groupInspect,
		Short:   "Say what stores are, and whether they can be reached",
		Long: `Say what each STORE is: how it is reached, which entries of the configuration hold for
it, where credentials for it come from, whether it answers and how fast, and whether it
can be written to. Without STORE, do so for $CASTOR_STORE, else for default.castr here.

Secrets are never shown, only where they are. The exit code is 0 only if all stores can
be reached.`,
		Example: `  castor stores s3+https://host/bucket/store
  castor stores 'https://mirror1.example/store|https://mirror2.example/store'`,
		Args: minArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{a.storeFor("-")}
			}
			return describeStores(cmd.Context(), a, args, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON, a line for each store")
	return cmd
}

func describeStores(ctx context.Context, a *app, stores []string, asJSON bool) error {
	unreachable := 0
	for i, loc := range stores {
		d, err := a.places.Describe(ctx, loc)
		if err != nil {
			return err
		}
		if !d.Reachable {
			unreachable++
		}
		if asJSON {
			if err := json.NewEncoder(a.Stdout).Encode(placeReportOf(d)); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(a.Stdout)
		}
		printStore(a, d, "")
	}
	if unreachable > 0 {
		return fmt.Errorf("%d of %d stores cannot be reached", unreachable, len(stores))
	}
	return nil
}

func printStore(a *app, d location.Description, indent string) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(a.Stdout, "%s%-12s %s\n", indent, name, fmt.Sprintf(format, args...))
	}
	line("store", "%s", d.Loc)
	line("kind", "%s", d.Kind)
	if d.URL != d.Loc {
		line("at", "%s", d.URL)
	}
	for _, m := range d.Config {
		line("config", "%s: %q sets %s", m.File, m.Pattern, strings.Join(m.Keys, ", "))
	}
	for _, c := range d.Credentials {
		line("credentials", "%s", c)
	}
	if len(d.Credentials) == 0 && (d.Kind == location.Web || d.Kind == location.S3) {
		line("credentials", "none found")
	}
	if d.Reachable {
		line("reachable", "yes, answers in %s", units.Duration(d.Latency))
	} else {
		line("reachable", "no: %v", d.Err)
	}
	line("writable", "%s", d.Writable)
	for _, m := range d.Members {
		fmt.Fprintln(a.Stdout)
		printStore(a, m, indent+"  ")
	}
}

// placeReport is the JSON form of what is said of a store.
type placeReport struct {
	Store       string          `json:"store"`
	Kind        string          `json:"kind"`
	URL         string          `json:"url"`
	Config      []storeConfig   `json:"config,omitempty"`
	Credentials []string        `json:"credentials,omitempty"`
	Reachable   bool            `json:"reachable"`
	Seconds     float64         `json:"latency_seconds,omitempty"`
	Error       string          `json:"error,omitempty"`
	Writable    location.Answer `json:"writable"`
	Members     []placeReport   `json:"members,omitempty"`
}

type storeConfig struct {
	File    string   `json:"file"`
	Pattern string   `json:"pattern"`
	Keys    []string `json:"keys"`
}

func placeReportOf(d location.Description) placeReport {
	r := placeReport{
		Store: d.Loc, Kind: string(d.Kind), URL: d.URL, Credentials: d.Credentials,
		Reachable: d.Reachable, Seconds: d.Latency.Seconds(), Writable: d.Writable,
	}
	if d.Err != nil {
		r.Error = d.Err.Error()
	}
	for _, m := range d.Config {
		r.Config = append(r.Config, storeConfig{m.File, m.Pattern, m.Keys})
	}
	for _, m := range d.Members {
		r.Members = append(r.Members, placeReportOf(m))
	}
	return r
}
