/*
 * NPU checks: the parsers with the traps of the tools' texts, and check_npu against a stand-in of hccn_tool that shows every
 * kind of fault. No Ascend hardware has seen any of this.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "verify/checks.h"
#include "verify/npu_parse.h"

static char standin[1024], conf_path[] = "/tmp/shoal-hccn-conf-XXXXXX";

static void test_ping_is_counted(void **state) {
    (void)state;
    int sent, received;
    assert_int_equal(npu_parse_ping("3 packets transmitted, 3 received, 0.00% packet loss\n", &sent, &received), 0);
    assert_int_equal(received, 3);
    /* "100.00% packet loss" contains "0.00% packet loss". */
    assert_int_equal(npu_parse_ping("recv time out seq=0\n3 packets transmitted, 0 received, 100.00% packet loss", &sent, &received), 0);
    assert_int_equal(sent, 3);
    assert_int_equal(received, 0);
    assert_int_equal(npu_parse_ping("Destination Host Unreachable\n", &sent, &received), -1);
    assert_int_equal(npu_parse_ping("3 packets transmitted, 4 received, 0.00% packet loss", &sent, &received), -1);
    assert_int_equal(npu_parse_ping("99999999999 packets transmitted, 3 received, ", &sent, &received), -1);
}

static void test_lldp_tells_switch_from_card(void **state) {
    (void)state;
    char port[NPU_PORT_BYTES];
    enum npu_peer peer;
    assert_int_equal(
        npu_parse_lldp(
            "Port ID TLV\n\tIfname: 400GE1/1/20:2\nSystem Description TLV\n\tVersatile Routing Platform\nManagement Address TLV\n", port,
            &peer),
        0);
    assert_string_equal(port, "400GE1/1/20:2");
    assert_int_equal(peer, NPU_PEER_SWITCH);
    assert_int_equal(npu_parse_lldp("\tIfname: eth1\nSystem Description TLV\n\tAscendNPU\nEnd of LLDPDU TLV", port, &peer), 0);
    assert_int_equal(peer, NPU_PEER_NPU);
    /* "Routing" outside the description says nothing. */
    assert_int_equal(npu_parse_lldp("Routing\n\tIfname: p\nSystem Description TLV\n\tbox\nOther TLV\n Routing", port, &peer), 0);
    assert_int_equal(peer, NPU_PEER_OTHER);
    assert_int_equal(npu_parse_lldp("", port, &peer), -1);
    assert_int_equal(npu_parse_lldp("\tIfname: \n", port, &peer), -1);
}

static void test_small_answers(void **state) {
    (void)state;
    char a[NPU_ADDR_BYTES], mask[NPU_ADDR_BYTES], word[NPU_HEALTH_BYTES];
    bool is_up;
    int tls;
    assert_int_equal(npu_parse_link("link status: UP\n", &is_up), 0);
    assert_true(is_up);
    assert_int_equal(npu_parse_link("link status: UPPER\n", &is_up), -1);
    assert_int_equal(npu_parse_health("net health status: Receive timeout\r\n", word), 0);
    assert_string_equal(word, "Receive timeout");
    assert_int_equal(npu_parse_health("net health status: fine\n", word), -1);
    assert_int_equal(npu_parse_netdetect("netdetect address: 11.12.165.1", a), 0);
    assert_int_equal(npu_parse_netdetect("netdetect addr: 11.12.165.1", a), 0);
    assert_string_equal(a, "11.12.165.1");
    assert_int_equal(npu_parse_netdetect("netdetect addr: 11.12.165.1.7", a), -1);
    assert_int_equal(npu_parse_gateway("default gateway:11.12.165.1, Iface:eth0\n", a), 0);
    assert_string_equal(a, "11.12.165.1");
    assert_int_equal(npu_parse_ip("ipaddr:11.12.165.80\nnetmask:255.255.255.0\n", a, mask), 0);
    assert_string_equal(mask, "255.255.255.0");
    assert_int_equal(npu_parse_ip("ipaddr:11.12.165.80\n", a, mask), -1);
    assert_int_equal(npu_parse_tls("dev_id:0, tls switch[1](0:disable, 1:enable), tls preconfigured[1]", &tls), 0);
    assert_int_equal(tls, 1);
    assert_int_equal(npu_parse_tls("tls switch[2](", &tls), -1);
    assert_true(npu_same_network("11.12.165.80", "11.12.165.2", "255.255.255.0"));
    assert_false(npu_same_network("11.12.165.80", "11.12.166.2", "255.255.255.0"));
}

static void test_conf_and_smi(void **state) {
    (void)state;
    char value[NPU_ADDR_BYTES];
    int ids[NPU_MAX];
    static const char conf[] = "address_1=29.1.137.205\n  gateway_1 = 29.1.0.1 # out\naddress_10=29.1.0.9\naddress_1=29.1.137.206";
    assert_int_equal(npu_parse_conf(conf, "address", 1, value), 0);
    assert_string_equal(value, "29.1.137.206");
    assert_int_equal(npu_parse_conf(conf, "gateway", 1, value), 0);
    assert_string_equal(value, "29.1.0.1");
    assert_int_equal(npu_parse_conf(conf, "address", 0, value), -1);
    assert_int_equal(npu_parse_conf_ids(conf, ids), 2);
    assert_int_equal(ids[1], 10);
    struct npu_smi_row rows[NPU_MAX];
    struct buf text;
    buf_init(&text, 1 << 16);
    assert_int_equal(file_read(TEST_DATA_DIR "/hccn/npu-smi-alarm.txt", &text, NULL), 0);
    assert_int_equal(npu_parse_smi(text.data, rows), 4);
    assert_string_equal(rows[0].name, "910B1");
    assert_string_equal(rows[1].health, "Alarm");
    assert_int_equal(rows[3].npu, 3);
    assert_string_equal(rows[3].health, "Warning");
    buf_finish(&text);
}

/* What check_npu says of a check, under these faults. */
static const struct verify_finding *find(const struct verify_findings *findings, const char *check) {
    for (int i = 0; i < findings->n; i++)
        if (strcmp(findings->items[i].check, check) == 0)
            return &findings->items[i];
    print_error("there is no line '%s'\n", check);
    fail();
    return NULL;
}

static struct verify_findings run_with(const char *faults, json_t *facts) {
    struct verify_findings findings = {0};
    struct check_npu_opts opts = {.hccn_tool = standin, .npu_smi = standin, .hccn_conf = conf_path};
    setenv("HCCN_FAULTS", faults, 1);
    check_npu(&opts, &findings, facts);
    return findings;
}

static void expect(const char *faults, const char *check, enum verify_status status, const char *text) {
    json_t *facts = json_object();
    struct verify_findings findings = run_with(faults, facts);
    const struct verify_finding *line = find(&findings, check);
    if (line->status != status || strstr(line->text, text) == NULL) {
        print_error("%s: %s: '%s'\n", check, verify_status_name(line->status), line->text);
        fail();
    }
    assert_true(line->status < VERIFY_WARN || line->advice[0] != '\0');
    verify_findings_finish(&findings);
    json_decref(facts);
}

static void test_all_is_well(void **state) {
    (void)state;
    json_t *facts = json_object();
    struct verify_findings findings = run_with("", facts);
    for (int i = 0; i < findings.n; i++)
        if (findings.items[i].status != VERIFY_OK)
            print_error("%s: %s\n", findings.items[i].check, findings.items[i].text);
    assert_int_equal(verify_findings_worst(&findings), VERIFY_OK);
    assert_int_equal(json_array_size(json_object_get(facts, "npus")), 4);
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(facts, "npus"), 2), "address")), "11.12.165.82");
    verify_findings_finish(&findings);
    json_decref(facts);
}

static void test_faults(void **state) {
    (void)state;
    expect("1:link=link-down.txt", "npu link", VERIFY_FAIL, "NPU 1: DOWN");
    expect("2:lldp=lldp-empty.txt", "npu switch", VERIFY_FAIL, "NPU 2: an empty answer");
    expect("0:net_health=net_health-timeout.txt", "npu health", VERIFY_FAIL, "NPU 0: Receive timeout");
    expect("3:gateway=gateway-none.txt:2", "npu gateway", VERIFY_FAIL, "NPU 3: Get gateway failed, because no gateway was preset there!");
    expect("3:ip=ip-none.txt:2", "npu address", VERIFY_FAIL, "no ip was preset");
    expect("1:tls=failed.txt:1", "npu tls", VERIFY_FAIL, "NPU 1: Command execute failed!  exit status 1");
    expect("1:link=garbage.bin", "npu link", VERIFY_FAIL, "NPU 1: an answer that cannot be read");
    /* Never looked, because nobody said where: not a fault, but worth a word. */
    expect("*:net_health=net_health-init.txt *:netdetect=netdetect-none.txt", "npu health", VERIFY_WARN,
           "NPU 0: Init, since no probe address is set");
    expect("*:netdetect=netdetect-none.txt", "npu probe", VERIFY_WARN, "no probe address");
    expect("1:net_health=net_health-init.txt", "npu health", VERIFY_FAIL, "NPU 1: Init");
    /* Cards that are cabled to each other have no gateway. */
    expect("*:lldp=lldp-npu.txt *:gateway=gateway-none.txt:2", "npu gateway", VERIFY_NOTE, "cabled card to card");
}

static void test_conf_must_agree(void **state) {
    (void)state;
    setenv("HCCN_NET", "11.12.166", 1);
    expect("", "hccn.conf", VERIFY_FAIL, "address_0 is 11.12.165.80 there and 11.12.166.80 on the NPU");
    unsetenv("HCCN_NET");
    expect("0:tls=tls-on.txt", "hccn.conf", VERIFY_FAIL, "tls_enable_0 is 0 there and 1 on the NPU");
}

static void test_smi_health(void **state) {
    (void)state;
    setenv("HCCN_SMI", "npu-smi-alarm.txt", 1);
    expect("", "npu-smi", VERIFY_FAIL, "NPU 1: Alarm; NPU 3: Warning");
    unsetenv("HCCN_SMI");
}

static void test_hang_is_killed_with_its_group(void **state) {
    (void)state;
    char pid_path[] = "/tmp/shoal-hccn-hang-XXXXXX";
    int fd = mkstemp(pid_path);
    assert_true(fd >= 0);
    close(fd);
    setenv("HCCN_HANG_PID", pid_path, 1);
    int64_t start_ms = clock_mono_ms();
    expect("2:link=HANG", "npu link", VERIFY_FAIL, "NPU 2: no answer within 2.0 s; it was killed");
    assert_true(clock_mono_ms() - start_ms < 15000);
    unsetenv("HCCN_HANG_PID");
    struct buf text;
    buf_init(&text, 64);
    assert_int_equal(file_read(pid_path, &text, NULL), 0);
    int pid = atoi(buf_str(&text));
    assert_true(pid > 1);
    int tries = 0;
    while (kill(pid, 0) == 0 && tries++ < 500) /* killed; somebody else has to bury it */
        usleep(10000);
    if (kill(pid, 0) == 0) { /* still there: a zombie that nobody buries is gone too */
        char path[64];
        struct buf stat;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        buf_init(&stat, 4096);
        assert_int_equal(file_read(path, &stat, NULL), 0);
        assert_non_null(strstr(stat.data, ") Z "));
        buf_finish(&stat);
    }
    buf_finish(&text);
    unlink(pid_path);
}

static void test_pings(void **state) {
    (void)state;
    struct check_npu_opts opts = {.hccn_tool = standin};
    setenv("HCCN_FAULTS", "1:ping=ping-loss.txt 2:ping=ping-lost.txt:1 3:ping=failed.txt:1", 1);
    json_t *asks = json_pack("[{s:i,s:s},{s:i,s:s},{s:i,s:s},{s:i,s:s}]", "npu", 0, "address", "11.12.166.80", "npu", 1, "address",
                             "11.12.166.81", "npu", 2, "address", "11.12.166.82", "npu", 3, "address", "11.12.166.83");
    json_t *answers = check_npu_pings(&opts, asks);
    const int received[] = {3, 2, 0, 0}, sent[] = {3, 3, 3, 0};
    assert_int_equal(json_array_size(answers), 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(json_integer_value(json_object_get(json_array_get(answers, (size_t)i), "received")), received[i]);
        assert_int_equal(json_integer_value(json_object_get(json_array_get(answers, (size_t)i), "sent")), sent[i]);
    }
    json_decref(asks);
    json_decref(answers);
}

static void test_missing_tool(void **state) {
    (void)state;
    struct verify_findings findings = {0};
    json_t *facts = json_object();
    struct check_npu_opts opts = {.hccn_tool = "/nowhere/hccn_tool", .npu_smi = standin, .hccn_conf = conf_path};
    check_npu(&opts, &findings, facts);
    assert_int_equal(find(&findings, "npu")->status, VERIFY_FAIL);
    verify_findings_finish(&findings);
    json_decref(facts);
}

static int setup(void **state) {
    (void)state;
    char conf[1024];
    size_t used = 0;
    snprintf(standin, sizeof standin, "%s/../verify/hccn_standin.sh", TEST_DATA_DIR);
    for (int i = 0; i < 4; i++)
        used += (size_t)snprintf(
            conf + used, sizeof conf - used,
            "address_%d=11.12.165.8%d\nnetmask_%d=255.255.255.0\nnetdetect_%d=11.12.165.1\ngateway_%d=11.12.165.1\ntls_enable_%d=0\n", i, i,
            i, i, i, i);
    int fd = mkstemp(conf_path);
    if (fd < 0 || write(fd, conf, used) != (ssize_t)used)
        return -1;
    return close(fd);
}

static int teardown(void **state) {
    (void)state;
    return unlink(conf_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ping_is_counted),
                                       cmocka_unit_test(test_lldp_tells_switch_from_card),
                                       cmocka_unit_test(test_small_answers),
                                       cmocka_unit_test(test_conf_and_smi),
                                       cmocka_unit_test(test_all_is_well),
                                       cmocka_unit_test(test_faults),
                                       cmocka_unit_test(test_conf_must_agree),
                                       cmocka_unit_test(test_smi_health),
                                       cmocka_unit_test(test_hang_is_killed_with_its_group),
                                       cmocka_unit_test(test_pings),
                                       cmocka_unit_test(test_missing_tool)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
