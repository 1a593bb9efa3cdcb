"""launch/gke.sh and its templates: manifests against the schemas, and what is in them."""

import copy
import json
from pathlib import Path

import pytest

from tests.launch.scripts import call, commands, program

yaml = pytest.importorskip("yaml", reason="pyyaml is not there; the extra 'test' brings it")
jsonschema = pytest.importorskip("jsonschema", reason="the extra 'test' brings jsonschema")
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="the extra 'test' brings Kubernetes' schemas"
)

SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())
COMMON = {"NAME": "heads", "IMAGE": "r/i:1", "CLAIM": "disk"}
TPU = {**COMMON, "ACCELERATOR": "tpu-v6e-slice", "TOPOLOGY": "4x8"}
GPU = {**COMMON, "ACCELERATOR": "nvidia-h100-80gb", "NODES": "4"}
HARD_FLAGS = ["--config=g3diff:paper", "--config.name=it's \"two\" w\\rds & more", "--x=$(HOME) $y",
              "--tab=\t|", "--line=\n- é: #", "${NAME}", ""]  # fmt: skip


def manifest_of(*arguments, **variables):
    """What a dry run of `submit` would give to kubectl."""
    result = call("gke.sh", "submit", *(arguments or ["--config=g3diff"]), **variables)
    assert result.returncode == 0, result.stderr
    head, _, rest = result.stdout.partition(" <<'MANIFEST'\n")
    assert head.split()[:3] == ["kubectl", "create", "--filename=-"]
    text, end, nothing = rest.partition("\nMANIFEST\n")
    assert end and not nothing
    return yaml.safe_load(text)


def check(manifest):
    """JobSet's fields by this folder's schema, its Jobs and their pods by Kubernetes' own."""
    jsonschema.Draft202012Validator(SCHEMA).validate(manifest)
    for job in manifest["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}}
        kubernetes_validate.validate(whole | {"spec": job["template"]["spec"]}, "1.33", strict=True)


def job_of(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    return job


def pod_of(manifest):
    return job_of(manifest)["template"]["spec"]["template"]["spec"]


def environment_of(container):
    return {entry["name"]: entry.get("value") for entry in container["env"]}


@pytest.mark.parametrize(
    "variables",
    [
        TPU,
        {**TPU, "QUEUE": "team", "SLICES": "2", "MOUNT": "/data", "RESTARTS": "0"},
        {**TPU, "NAME": "on", "CLAIM": "1e3", "IMAGE": "i@sha256:0"},
        GPU,
        {**GPU, "QUEUE": "team", "GPUS": "4", "PORT": "1234", "GRACE": "600"},
    ],
)
def test_manifests_hold_to_the_schemas(variables):
    check(manifest_of(*HARD_FLAGS, **variables))


def mutations():
    def set_to(value, *path):
        def change(manifest):
            inner = manifest
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = value

        return change

    job = ("spec", "replicatedJobs", 0, "template", "spec")
    pod = (*job, "template", "spec")
    return {
        "kind": set_to("Jobset", "kind"),
        "restarts": set_to("50", "spec", "failurePolicy", "maxRestarts"),
        "reason": set_to(["Sorrow"], "spec", "failurePolicy", "rules", 0, "onJobFailureReasons"),
        "strategy": set_to("Never", "spec", "failurePolicy", "restartStrategy"),
        "replica": set_to(1, "spec", "replicatedJobs", 0, "replica"),
        "label": set_to(1, "metadata", "labels", "queue"),
        "paralellism": set_to(1, *job, "paralellism"),
        "backoff": set_to("none", *job, "backoffLimit"),
        "grace": set_to("120", *pod, "terminationGracePeriodSeconds"),
        "network": set_to("yes", *pod, "hostNetwork"),
        "selector": set_to(4, *pod, "nodeSelector", "x"),
        "command": set_to("python", *pod, "containers", 0, "command"),
        "mount": set_to([{"name": "shared"}], *pod, "containers", 0, "volumeMounts"),
        "volume": set_to("disk", *pod, "volumes", 0, "persistentVolumeClaim"),
        "unknown": set_to(1, *pod, "containers", 0, "unknown"),
    }


@pytest.mark.parametrize("name", mutations())
def test_the_schemas_notice_mistakes(name):
    manifest = copy.deepcopy(manifest_of(**TPU))
    mutations()[name](manifest)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(manifest)


@pytest.mark.parametrize("variables", [TPU, GPU])
def test_flags_and_environment_reach_the_pod_as_they_were_given(variables):
    """Kubernetes reads `$(NAME)` in a command, and `$$` as a dollar."""
    manifest = manifest_of("A=two words", *HARD_FLAGS, **variables)
    command = pod_of(manifest)["containers"][0]["command"]
    assert command[:7] == ["env", "PYTHONUNBUFFERED=1", "A=two words", "python", "-m",
                           "headjax.main", "--distributed=on"]  # fmt: skip
    assert [word.replace("$$", "$") for word in command[7:]] == HARD_FLAGS
    assert not any("$(" in word.replace("$$", "") for word in command)


@pytest.mark.parametrize("variables", [TPU, GPU])
def test_a_run_that_was_stopped_is_restarted_and_a_mistake_is_not(variables):
    manifest = manifest_of(**variables, RESTARTS="7", GRACE="90")
    policy, job, pod = manifest["spec"]["failurePolicy"], job_of(manifest), pod_of(manifest)
    assert policy["maxRestarts"] == 7 and policy["restartStrategy"] == "BlockingRecreate"
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (failing,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert failing["action"] == "FailJob"
    assert failing["onExitCodes"] == {"containerName": "headjax", "operator": "In", "values": [2]}
    assert job["template"]["spec"]["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] == 90
    assert pod["hostNetwork"] is True and pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert environment_of(pod["containers"][0])["HEADJAX_STOPPED_CODE"] == "75"


@pytest.mark.parametrize(
    ("topology", "chips", "hosts"), [("4x8", "4", 8), ("2x4", "8", 1), ("4x4x4", "4", 16)]
)
def test_a_tpu_slice_has_as_many_pods_as_hosts(topology, chips, hosts):
    manifest = manifest_of(**TPU | {"TOPOLOGY": topology, "CHIPS": chips, "SLICES": "2"})
    job, pod = job_of(manifest), pod_of(manifest)
    assert job["replicas"] == 2
    assert job["template"]["spec"]["parallelism"] == hosts
    assert job["template"]["spec"]["completions"] == hosts
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": topology,
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": int(chips)}
    exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert manifest["metadata"]["annotations"] == {exclusive: "cloud.google.com/gke-nodepool"}


def test_gpu_processes_meet_at_the_first_pods_name():
    manifest = manifest_of(**GPU, PORT="1234")
    job, container = job_of(manifest), pod_of(manifest)["containers"][0]
    # JobSet's names: <jobset>-<replicated job>-<job>-<pod>.<jobset>
    pod = f"{manifest['metadata']['name']}-{job['name']}-0-0.{manifest['metadata']['name']}"
    environment = environment_of(container)
    assert environment["HEADJAX_COORDINATOR"] == f"{pod}:1234"
    assert environment["HEADJAX_PROCESSES"] == "4" == str(job["template"]["spec"]["completions"])
    assert job["replicas"] == 1 and job["template"]["spec"]["completionMode"] == "Indexed"
    (index,) = (entry for entry in container["env"] if entry["name"] == "HEADJAX_PROCESS")
    path = index["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert manifest["spec"]["network"]["enableDNSHostnames"] is True


@pytest.mark.parametrize("variables", [TPU, GPU])
def test_the_shared_claim_is_mounted_and_the_queue_is_a_label(variables):
    manifest = manifest_of(**variables, MOUNT="/data", QUEUE="team")
    pod = pod_of(manifest)
    assert pod["volumes"][0] == {"name": "shared", "persistentVolumeClaim": {"claimName": "disk"}}
    assert pod["containers"][0]["volumeMounts"][0] == {"name": "shared", "mountPath": "/data"}
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    assert manifest_of(**variables)["metadata"]["labels"] == {}


def test_submit_gives_kubectl_what_the_dry_run_shows(tmp_path):
    program(tmp_path, "kubectl", f'#!/bin/sh\necho "$*"\ncat > {tmp_path}/given\n')
    arguments = ["submit", "--config=g3diff"]
    result = call("gke.sh", *arguments, **TPU, path=tmp_path, DRY_RUN="0", NAMESPACE="n")
    assert (result.returncode, result.stdout) == (0, "create --filename=- --namespace=n\n")
    assert yaml.safe_load((tmp_path / "given").read_text()) == manifest_of(**TPU, NAMESPACE="n")


def test_a_submission_that_fails_says_so(tmp_path):
    program(tmp_path, "kubectl", "#!/bin/sh\ncat > /dev/null\necho exists already >&2\nexit 1\n")
    result = call("gke.sh", "submit", "--config=g3diff", **TPU, path=tmp_path, DRY_RUN="0")
    assert (result.returncode, result.stderr) == (1, "exists already\n")


def test_a_jobset_is_looked_at_and_deleted_by_these_commands():
    label = "--selector=jobset.sigs.k8s.io/jobset-name=heads"
    assert commands(call("gke.sh", "logs", "--follow", NAME="heads")) == [
        ["kubectl", "logs", label, "--prefix", "--tail=50", "--max-log-requests=256", "--follow"]
    ]
    assert commands(call("gke.sh", "status", NAME="heads", NAMESPACE="n")) == [
        ["kubectl", "get", "jobset/heads", "--namespace=n"],
        ["kubectl", "get", "pods", label, "--namespace=n"],
    ]
    assert commands(call("gke.sh", "delete", NAME="heads")) == [
        ["kubectl", "delete", "jobset/heads"]
    ]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({**TPU, "TOPOLOGY": "4"}, "TOPOLOGY must be like 4x4 or 2x2x2, not '4'"),
        ({**TPU, "TOPOLOGY": "2x3"}, "a slice of 2x3 has 6 chips, not hosts of CHIPS=4 each"),
        ({**TPU, "CHIPS": "four"}, "CHIPS must be a whole number"),
        ({**TPU, "ACCELERATOR": "v6e"}, "ACCELERATOR must be a TPU or an NVIDIA card"),
        ({**TPU, "NAME": "Heads"}, "NAME must be at most 40 small letters"),
        ({**TPU, "RESTARTS": "-1"}, "RESTARTS must be a whole number, not '-1'"),
        ({**GPU, "NODES": "0"}, "NODES must be a whole number from 1 on, not '0'"),
        ({**GPU, "GRACE": "2m"}, "GRACE must be a whole number"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(variables, sentence):
    result = call("gke.sh", "submit", "--config=g3diff", **variables)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("launch/gke.sh: ") and sentence in result.stderr


def test_flags_that_no_manifest_can_hold_are_told():
    for arguments, sentence in (([], "the flags of headjax.main are missing"),
                                (["--x=\a"], "a flag holds a control character")):  # fmt: skip
        result = call("gke.sh", "submit", *arguments, **TPU)
        assert result.returncode == 2 and result.stdout == "" and sentence in result.stderr
