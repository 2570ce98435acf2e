"""flower_dist_finetune.py: the whole Inception-v3, small, on several processes."""
import re

import clusters
import running

SCRIPT = 'flower_dist_finetune.py'


def run_cluster(flags, steps):
  """Run a cluster to its end, without a word on standard error; return the chief's lines."""
  with clusters.Cluster(SCRIPT, *flags, f'--steps={steps}', ps=2) as cluster:
    assert cluster.end() == [0, 0, 0, 0]
    assert [process.errors for process in cluster.processes] == [[]] * 4
    lines = cluster.workers[0].lines
  assert any(line.startswith('Final test accuracy = ') for line in lines)
  return lines


def printed_steps(lines):
  found = (re.match(r'Step (\d+): Validation accuracy = [\d.]+%', line) for line in lines)
  return [int(match[1]) for match in found if match]


def test_asynchronous_workers_train_validate_and_test(photos_file, backbone_ckpt, tmp_path):
  lines = run_cluster([f'--input_file={photos_file}', f'--ckpt_file={backbone_ckpt}',
                       f'--model_dir={tmp_path}', '--batch_size=2'], 2)
  assert printed_steps(lines) in ([0, 1], [0, 2], [0, 1, 2])  # one step more than was asked for


def test_synchronous_training_goes_on_and_as_one_process(photos_file, backbone_ckpt, tmp_path):
  flags = [f'--input_file={photos_file}', f'--ckpt_file={backbone_ckpt}',
           f'--model_dir={tmp_path}', '--batch_size=2']
  assert printed_steps(run_cluster([*flags, '--sync'], 2)) == [0, 1]
  lines = run_cluster([*flags, '--sync'], 3)
  assert printed_steps(lines) == [2] and f'Going on from {tmp_path}/flower.ckpt-1.' in lines
  # What it has saved is a checkpoint of flower_finetune.py, which goes on from it.
  result = running.run_script('flower_finetune.py', *flags, '--trainable_scopes=InceptionV3',
                              '--steps=4', timeout=clusters.TIMEOUT_SECS)
  assert (result.returncode, result.stderr) == (0, '')
  assert f'Going on from {tmp_path}/flower.ckpt-2.' in result.stdout
