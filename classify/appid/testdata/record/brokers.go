package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/Azure/go-amqp"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func brokers() []scenario {
	return []scenario{
		{
			name: "amqp-0-9-1", ports: []int{5672}, labels: []label{{"tcp", 5672, "amqp", ""}},
			made: []string{"rabbitmq-server", "github.com/rabbitmq/amqp091-go"}, serve: rabbitmq,
			call: func(ctx context.Context) error {
				c, err := amqp091.Dial("amqp://guest:guest@" + serverIP + ":5672/")
				if err != nil {
					return err
				}
				defer c.Close()
				ch, err := c.Channel()
				if err != nil {
					return err
				}
				if _, err := ch.QueueDeclare("orders", false, true, false, false, nil); err != nil {
					return err
				}
				return ch.PublishWithContext(ctx, "", "orders", false, false, amqp091.Publishing{Body: []byte("one lamp")})
			},
		},
		{
			name: "amqp-1.0", ports: []int{5672}, labels: []label{{"tcp", 5672, "amqp", ""}},
			made: []string{"rabbitmq-server", "github.com/Azure/go-amqp"}, note: "plugin rabbitmq_amqp1_0", serve: rabbitmq,
			call: func(ctx context.Context) error {
				c, err := amqp.Dial(ctx, "amqp://"+serverIP+":5672", &amqp.ConnOptions{SASLType: amqp.SASLTypePlain("guest", "guest")})
				if err != nil {
					return err
				}
				defer c.Close()
				s, err := c.NewSession(ctx, nil)
				if err != nil {
					return err
				}
				sender, err := s.NewSender(ctx, "/queue/orders", nil)
				if err != nil {
					return err
				}
				return sender.Send(ctx, amqp.NewMessage([]byte("one lamp")), nil)
			},
		},
		{
			name: "stomp", ports: []int{61613}, labels: []label{{"tcp", 61613, "stomp", ""}},
			made: []string{"rabbitmq-server", "python3-stomp"}, note: "plugin rabbitmq_stomp", serve: rabbitmq,
			call: func(ctx context.Context) error {
				c := exec.CommandContext(ctx, "/usr/bin/python3", "-c", `import stomp, sys, time
c = stomp.Connection12([(sys.argv[1], 61613)], vhost="/")
c.connect("guest", "guest", wait=True)
c.send(destination="/queue/orders", body="one lamp")
time.sleep(0.3)
c.disconnect()`, serverIP)
				c.Stderr = os.Stderr
				return c.Run()
			},
		},
		{
			name: "kafka", ports: []int{9092}, labels: []label{{"tcp", 9092, "kafka", ""}},
			made: []string{"github.com/twmb/franz-go/pkg/kfake", "github.com/twmb/franz-go"},
			serve: func(ctx context.Context, _ string) error {
				c, err := kfake.NewCluster(kfake.Ports(9092), kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"), kfake.ListenFn(func(network, address string) (net.Listener, error) {
					return net.Listen(network, strings.Replace(address, "127.0.0.1", serverIP, 1))
				}))
				if err != nil {
					return err
				}
				defer c.Close()
				<-ctx.Done()
				return nil
			},
			call: func(ctx context.Context) error {
				c, err := kgo.NewClient(kgo.SeedBrokers(serverIP+":9092"), kgo.DefaultProduceTopic("orders"), kgo.ConsumeTopics("orders"), kgo.ClientID("shop"))
				if err != nil {
					return err
				}
				defer c.Close()
				if err := c.ProduceSync(ctx, kgo.StringRecord("one lamp")).FirstErr(); err != nil {
					return err
				}
				return c.PollFetches(ctx).Err()
			},
		},
	}
}

// rabbitmq is a broker with all that it speaks here.
func rabbitmq(ctx context.Context, dir string) error {
	plugins := filepath.Join(dir, "enabled_plugins")
	if err := os.WriteFile(plugins, []byte("[rabbitmq_amqp1_0,rabbitmq_stomp].\n"), 0o644); err != nil {
		return err
	}
	conf := filepath.Join(dir, "rabbitmq.conf")
	if err := os.WriteFile(conf, []byte("loopback_users = none\n"), 0o644); err != nil {
		return err
	}
	// Erlang looks its own host up.
	return execute(ctx, dir, []string{
		"RABBITMQ_NODENAME=record@localhost", "RABBITMQ_MNESIA_BASE=" + dir, "RABBITMQ_LOG_BASE=" + dir, "RABBITMQ_ENABLED_PLUGINS_FILE=" + plugins,
		"RABBITMQ_CONFIG_FILE=" + conf, "RABBITMQ_PID_FILE=" + filepath.Join(dir, "pid"), "ERL_EPMD_ADDRESS=127.0.0.1", "HOSTNAME=localhost",
	}, "/usr/lib/rabbitmq/bin/rabbitmq-server")
}
