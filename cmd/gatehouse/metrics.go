package main

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics reads the gateway at scrape time; nothing on the packet path counts twice.
type metrics struct{ gw *gateway }

var (
	descEpoch      = prometheus.NewDesc("gatehouse_policy_epoch", "Number of the table in force.", nil, nil)
	descRules      = prometheus.NewDesc("gatehouse_policy_rules_count", "Rules of the table in force.", nil, nil)
	descCompile    = prometheus.NewDesc("gatehouse_policy_compile_failed", "1 while the last compile failed and an older table stands.", nil, nil)
	descDocker     = prometheus.NewDesc("gatehouse_docker_connected", "1 while the engine's events are read.", nil, nil)
	descServices   = prometheus.NewDesc("gatehouse_services_count", "Services by mode; away: those of which no task runs on this node.", []string{"mode"}, nil)
	descUncovered  = prometheus.NewDesc("gatehouse_workloads_uncovered_count", "Workloads that cannot be guarded.", nil, nil)
	descEndpoints  = prometheus.NewDesc("gatehouse_endpoints_count", "Interfaces by state.", []string{"state"}, nil)
	descFlows      = prometheus.NewDesc("gatehouse_flows_count", "Live conversations.", nil, nil)
	descPackets    = prometheus.NewDesc("gatehouse_dataplane_packets_total", "Packets by way through the gateway.", []string{"way"}, nil)
	descDrops      = prometheus.NewDesc("gatehouse_dataplane_dropped_packets_total", "Packets dropped, by reason and direction.", []string{"reason", "direction"}, nil)
	descRecords    = prometheus.NewDesc("gatehouse_history_lost_records_total", "Conversations and violations that found no room in the history.", []string{"kind"}, nil)
	descSummed     = prometheus.NewDesc("gatehouse_history_summed_records_total", "Conversations and violations kept without addresses: one workload had too many peers.", nil, nil)
	descDamaged    = prometheus.NewDesc("gatehouse_history_damaged_records_total", "Records that could not be read back.", nil, nil)
	descHistory    = prometheus.NewDesc("gatehouse_history_file_bytes", "Size of the history's database.", nil, nil)
	descUnwritten  = prometheus.NewDesc("gatehouse_history_write_failed", "1 while the history cannot be written.", nil, nil)
	descViolations = prometheus.NewDesc("gatehouse_violations_total", "Violation records made, or lost in a flood, since start.", nil, nil)
)

// described are all that Collect may send: the registry refuses others.
var described = []*prometheus.Desc{
	descEpoch, descRules, descCompile, descDocker, descServices, descUncovered, descEndpoints, descFlows,
	descPackets, descDrops, descRecords, descSummed, descDamaged, descHistory, descUnwritten, descViolations,
}

// Describe tells the registry of all metrics, those included that nothing has
// counted yet.
func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range described {
		ch <- d
	}
}

func (m metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := m.gw.status()
	gauge(descEpoch, float64(s.Epoch))
	gauge(descRules, float64(m.gw.ruleCount()))
	gauge(descCompile, flag(m.gw.control.Fault() != ""))
	gauge(descDocker, flag(s.Docker.Connected))
	gauge(descServices, float64(s.Services.Enforce), "enforce")
	gauge(descServices, float64(s.Services.Observe), "observe")
	gauge(descServices, float64(s.Services.Unenrolled), "unenrolled")
	gauge(descServices, float64(s.Services.Away), "away")
	gauge(descUncovered, float64(len(s.Uncovered)))
	gauge(descEndpoints, float64(s.Endpoints.Admitted), "admitted")
	gauge(descEndpoints, float64(s.Endpoints.Waiting), "waiting")
	gauge(descFlows, float64(s.Flows))
	for way, n := range s.Packets {
		counter(descPackets, n, way)
	}
	for direction, drops := range s.DropsBy {
		for reason, n := range drops {
			counter(descDrops, n, reason, direction)
		}
	}
	counter(descRecords, s.History.LostFlows, "flow")
	counter(descRecords, s.History.LostViolations, "violation")
	counter(descSummed, s.History.Summed)
	counter(descDamaged, s.History.Damaged)
	gauge(descHistory, float64(s.History.Bytes))
	gauge(descUnwritten, flag(s.History.Problem != ""))
	counter(descViolations, m.gw.violationCount())
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// probes answers /metrics, /livez and /readyz; the address is loopback only.
func probes(gw *gateway) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics{gw}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("alive\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if problems := gw.unready(); len(problems) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(strings.Join(problems, "\n") + "\n"))
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	return mux
}
